"""Times scores of transferability, LogME beside the plain algorithm of its authors.

  python -m benchmarks.transferability --out runs/scores.json

Features are drawn: rectified, and of a spectrum that falls as a network's does.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import harness
from tljax.measures import transferability


def drawn(examples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns features (N, D) float32 and labels (N,)."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, classes, examples)
  mixing = rng.normal(size=(width, width)) * np.arange(1, width + 1)[:, None] ** -0.5
  features = rng.normal(size=(examples, width)) @ mixing / 20
  features += 0.03 * rng.normal(size=(classes, width))[labels]
  return np.float32(np.maximum(0, features)), labels


def published_logme(features: np.ndarray, labels: np.ndarray) -> float:
  """The authors' algorithm: a fixed point of alpha and beta by the singular values.

  (You et al., 2021, algorithm 1, and 'optimized LogME' of You et al., 2022.)
  """
  features = np.float64(features)
  count, width = features.shape
  if count > width:
    _, s, v = np.linalg.svd(features.T @ features)
    s = np.sqrt(s)
    rank = np.sum(s > 1e-10)
    s, u = s[:rank], (features @ v.T)[:, :rank] / s[:rank]
  else:
    u, s, _ = np.linalg.svd(features, full_matrices=False)
  sigma, evidences = s[:, None] ** 2, []
  for k in range(labels.max() + 1):
    y = np.float64(labels == k)[:, None]
    squared = (u.T @ y) ** 2
    rest = np.sum(y**2) - squared.sum()
    alpha = beta = 1.0
    for _ in range(11):
      t = alpha / beta
      gamma = np.sum(sigma / (sigma + t))
      m2 = np.sum(sigma * squared / (t + sigma) ** 2)
      res2 = np.sum(squared / (1 + sigma / t) ** 2) + rest
      alpha, beta = gamma / (m2 + 1e-5), (count - gamma) / (res2 + 1e-5)
      if abs(alpha / beta - t) / t <= 1e-3:
        break
    log_det = np.sum(np.log(alpha + beta * sigma))
    fit = beta * res2 + alpha * m2 + count * np.log(2 * np.pi)
    evidence = width * np.log(alpha) + count * np.log(beta) - log_det - fit
    evidences.append(evidence / 2 / count)
  return float(np.mean(evidences))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--examples', type=int, default=5000)
  parser.add_argument('--width', type=int, default=2048)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--threads', type=int, default=1)
  flags = parser.parse_args()
  features, labels = drawn(flags.examples, flags.width, 10)
  began = time.perf_counter()
  for _ in range(10):
    transferability.score(features, labels)
  together = time.perf_counter() - began
  print(f'all of ten networks, a thread a score: {together:.1f} s')
  contenders = {**transferability.OF_FEATURES, 'published LogME': published_logme}
  seconds = {name: [] for name in contenders}
  with threadpool_limits(flags.threads):
    for _ in range(flags.rounds):  # by turns, so that a busy spell meets all
      for name, of in contenders.items():
        began, used = time.perf_counter(), time.process_time()
        value = of(features, labels)
        elapsed = time.perf_counter() - began, time.process_time() - used
        seconds[name].append(elapsed)
        print(f'{name}: {value:.4f}, {elapsed[0]:.2f} s, {elapsed[1]:.2f} s of CPU')
  medians = {
    name: dict(zip(('wall', 'cpu'), np.median(rows, 0).tolist(), strict=True))
    for name, rows in seconds.items()
  }
  about = harness.environment(**{k: v for k, v in vars(flags).items() if k != 'out'})
  flags.out.parent.mkdir(parents=True, exist_ok=True)
  flags.out.write_text(
    json.dumps({**about, 'ten networks': together, 'seconds': medians}, indent=2) + '\n'
  )


if __name__ == '__main__':
  main()
