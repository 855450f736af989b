import jax
import numpy as np
import pytest

from tljax.finetuning import lwf
from tljax.models import Linear


@pytest.fixture
def source_head():
  """A classifier of four on the tiny network's eight features."""
  head = Linear(4)
  outputs = {'features': np.ones((1, 8), np.float32)}
  return head, head.init(jax.random.key(4), outputs)['params']


def test_one_step(check_step, source_head, model):
  """The modified cross-entropy of equations 2 and 3, less that of the old with itself:
  powers 1 / T of the probabilities, normalised.
  """

  def shares(outputs, head):
    logits = outputs['features'] @ head['kernel'] + head['bias'][None]
    powers = jax.nn.softmax(logits) ** (1 / 3)
    return powers / powers.sum(1, keepdims=True)

  def penalty(params, start, outputs, images):
    old = shares(model.apply(start, images), source_head[1]['classifier'])
    new = shares(outputs, params['source_head']['classifier'])
    surprise = [-(old * jax.numpy.log(p)).sum() / len(images) for p in (new, old)]
    return 0.7 * (surprise[0] - surprise[1])

  def build(model, optimizer):
    return lwf.method(
      model, optimizer, strength=0.7, temperature=3.0, source_head=source_head
    )

  check_step(build, penalty)
