"""LP-FT: linear probing, then fine-tuning (Kumar et al., 2022)."""

import functools

import jax
import jax.numpy as jnp
import optax

from tljax.finetuning import labels, plain
from tljax.losses import Loss
from tljax.method import Method, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  probe_steps: int = 10,
  probe_optimizer: optax.GradientTransformation | None = None,
  loss: Loss | None = None,
) -> Method:
  """Trains the head on the frozen backbone first, so that tuning distorts it less.

  A head drawn at random sends large, meaningless gradients into the backbone, which
  spoils its features outside the training distribution (section 3). Both phases are
  one step function, compiled once; while it probes, the backbone is frozen as by
  `labels.freeze`, its batch statistics and dropout too.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: of the tuning; its schedule and its moments begin with it.
    probe_steps: of the probing. The paper probes to convergence; the default is for
      trying out.
    probe_optimizer: moves the head in the probing; by default `optimizer` does. A
      probe takes larger rates than tuning.
    loss: see `plain.method`.
  """
  probe_parts = labels.freeze(model, probe_optimizer or optimizer, 'backbone/.*')
  probe = plain.method(*probe_parts, loss=loss)
  tune = plain.method(model, optimizer, loss=loss)

  def init(key, variables, batch):
    state = new_state(key, model, optimizer, batch['image'], variables)
    return state.replace(opt_state=(probe_parts[1].init(state.params), state.opt_state))

  def phase(position, state, batch):
    opt_states = list(state.opt_state)
    step = (probe, tune)[position].step
    after, metrics = step(state.replace(opt_state=opt_states[position]), batch)
    opt_states[position] = after.opt_state
    return after.replace(opt_state=tuple(opt_states)), metrics

  def step(state, batch):
    probing = state.step < probe_steps
    phases = (functools.partial(phase, i) for i in (0, 1))
    return _switch(probing, *phases, state, batch)

  return Method(init, step, predict_with(model))


def _switch(probing, probe, tune, state, batch):
  """`lax.cond`, but for CPUs: there XLA computes the gradient of a convolution thirty
  times slower within a conditional, so only the probe's step, which has none, is
  in one, and the other's result is thrown away while the probe lasts.
  """
  if jax.default_backend() != 'cpu':
    return jax.lax.cond(probing, probe, tune, state, batch)
  tuned = tune(state, batch)
  probed = jax.lax.cond(probing, probe, lambda *_: tuned, state, batch)
  return jax.tree.map(functools.partial(jnp.where, probing), probed, tuned)
