"""Open set domain adaptation by backpropagation (Saito et al., 2018)."""

import jax
import jax.numpy as jnp
import optax

from tljax.adaptation.adversarial import oppose_head
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  share: float = 0.5,
) -> Method:
  """Lets the features of each target image choose: a class of the source, or unknown.

  The last class is 'unknown', of which the source has no example. The head gives each
  target image a probability of it near `share`, by `boundary`; the features ascend that
  loss, and so move away to either side. Gradient reversal makes both one descent.

  Args:
    model: outputs by endpoint, among them 'logits' (N, K + 1); with a part 'head'.
    optimizer: moves the model's parameters.
    strength: of the features' ascent, a number or a schedule of the step.
    share: t.
  """

  def loss(params, source, target, strength):
    del source
    return boundary(oppose_head(model, params, target, strength), share)

  return align(model, optimizer, loss, strength=strength)


def boundary(logits: jax.Array, share: float = 0.5) -> jax.Array:
  """Cross-entropy of the last class, or not, to the probability `share` (section 3.2).

  Logits are (N, K + 1).
  """
  known = jax.nn.logsumexp(logits[:, :-1], -1)
  total = jax.nn.logsumexp(logits, -1)
  return jnp.mean(total - share * logits[:, -1] - (1 - share) * known)
