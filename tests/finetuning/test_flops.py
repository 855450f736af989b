"""Compiled operations of a step against the analytic count, within three percent."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.finetuning import labels, lora, plain

COUNT, SIDE, WIDTH, DEPTH, CLASSES, RANK = 8, 6, 64, 3, 2, 4


class Layers(nn.Module):
  """Convolutions of a map, or dense layers of its pixels, of one width."""

  kind: str

  @nn.compact
  def __call__(self, x, train=False):
    del train
    for i in range(DEPTH):
      name = f'layer{i + 1}'
      if self.kind == 'dense':
        layer = nn.Dense(WIDTH, use_bias=False, name=name)
      else:
        layer = nn.Conv(WIDTH, (3, 3), use_bias=False, name=name)
      x = nn.relu(layer(x))
    return {'features': jnp.mean(x, (1, 2))}


@pytest.fixture(params=['dense', 'conv'])
def kind(request):
  return request.param


@pytest.fixture
def step_flops(kind):
  """Returns `build -> (flops, state)` of a step of `build(model, optimizer)`."""
  stages = tuple(f'layer{i + 1}' for i in range(DEPTH))
  spec = models.Spec(SIDE, SIDE, (0.0,) * WIDTH, (1.0,) * WIDTH, stages, WIDTH)
  model = models.Classifier(Layers(kind), models.Linear(CLASSES), spec)
  batch = {
    'image': jnp.zeros((COUNT, SIDE, SIDE, WIDTH)),
    'label': jnp.zeros(COUNT, jnp.int32),
  }

  def step_flops(build):
    method = build(model, optax.sgd(0.1, momentum=0.9))
    state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
    compiled = jax.jit(method.step).lower(state, batch).compile()
    return compiled.cost_analysis()['flops'], state

  return step_flops


@pytest.fixture
def pairs(kind):
  """Pairs of an input and an output pixel that one weight of a layer meets: of a 3x3
  window the border has fewer.
  """
  side = SIDE**2 if kind == 'dense' else (3 * SIDE - 2) ** 2
  return COUNT * side


def buffers(state):
  return sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))


def test_a_frozen_backbone_costs_a_forward_pass(step_flops, pairs):
  """No backward pass and no optimiser state; the head's are a few hundred."""
  got, state = step_flops(
    lambda model, optimizer: plain.method(
      *labels.freeze(model, optimizer, 'backbone/.*')
    )
  )
  layer = 2 * pairs * WIDTH * WIDTH
  np.testing.assert_allclose(got, DEPTH * layer, rtol=0.03)
  assert buffers(state) == WIDTH * CLASSES + CLASSES


def test_from_a_stage_on_it_costs_twice_its_forward_pass_more(step_flops, pairs):
  """Of the lowest that trains, once: nothing below wants its input's gradient."""
  got, _ = step_flops(
    lambda model, optimizer: plain.method(
      *labels.freeze(model, optimizer, labels.up_to(model.spec, 'layer1'))
    )
  )
  layer = 2 * pairs * WIDTH * WIDTH
  np.testing.assert_allclose(got, (DEPTH + 2 + 1) * layer, rtol=0.03)


def test_lora_costs_a_forward_pass_the_inputs_gradients_and_its_branches(
  step_flops, pairs, kind
):
  """No gradient of a frozen kernel. A branch is a window to r channels, then 1x1."""
  got, state = step_flops(
    lambda model, optimizer: lora.method(model, optimizer, rank=RANK)
  )
  layer = 2 * pairs * WIDTH * WIDTH
  down, up = 2 * pairs * WIDTH * RANK, 2 * COUNT * SIDE**2 * RANK * WIDTH
  # Each product thrice, but for the image's gradient.
  branches = 3 * DEPTH * (down + up) - down
  wanted = DEPTH * layer + (DEPTH - 1) * layer + branches
  np.testing.assert_allclose(got, wanted, rtol=0.03)
  window = 1 if kind == 'dense' else 9
  trained = DEPTH * (window + 1) * WIDTH * RANK + WIDTH * CLASSES + CLASSES
  assert buffers(state) == trained
