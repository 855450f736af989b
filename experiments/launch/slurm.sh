#!/usr/bin/env bash
# Runs a script on 8 nodes of 8 GPUs, a process a GPU, and goes on after a preemption:
#
#   sbatch experiments/launch/slurm.sh adapt --source ... --out /shared/runs/adapted
#
#SBATCH --job-name=tljax
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is over the processes are told, and save.
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.out
set -uo pipefail

script=${1:?the script to run, such as adapt}
shift

# SLURM's variables tell each process who it is. One that dies takes the others along.
srun --kill-on-bad-exit=1 .venv/bin/python -m "experiments.$script" "$@" --resume
status=$?

# 75, EX_TEMPFAIL, says: saved, start me again.
if [[ $status == 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
