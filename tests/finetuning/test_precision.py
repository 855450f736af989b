"""Computing in bfloat16, and with activations computed again, keeps the training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import losses, models, train
from tljax.data import batches
from tljax.finetuning import labels, plain
from tljax.method import path_name
from tljax.models.base import Options
from tljax.models.cifar_resnet import CifarResNet

STEPS = 60


def resnet8(**options):
  """The smallest of CIFAR's residual networks: a stem and three blocks."""
  options = Options(**options)
  spec = dataclasses.replace(models.spec('cifar_resnet20'), parameters=None)
  backbone = CifarResNet(1, options)
  return models.Classifier(backbone, models.Linear(10), spec, options.dtype)


pytestmark = pytest.mark.usefixtures('compile_fast')


def dtypes(tree):
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_name(path): str(leaf.dtype) for path, leaf in leaves}


@jax.numpy_dtype_promotion('standard')  # flax's norms mix the two
def test_in_bfloat16_it_learns_as_much_and_all_that_is_kept_is_float32(
  domains, one_device
):
  digits, accuracies, final = domains['digits'], [], []
  stream = batches.stream(digits['train'], 32, seed=0)
  judged = [digits[split] for split in ('validation', 'test')]
  for dtype in (jnp.float32, jnp.bfloat16):
    optimizer = optax.adamw(optax.cosine_decay_schedule(5e-3, STEPS))
    method = plain.method(resnet8(dtype=dtype), optimizer)
    state = method.init(jax.random.key(0), None, stream(0))
    state, records = train.fit(method, state, stream, STEPS, mesh=one_device)
    kept = dtypes((state.params, state.opt_state, state.model_state))
    assert all(d == 'float32' or n.endswith('count') for n, d in kept.items())
    final.append(records[-1]['loss'])
    predict = train.predictor(method)
    right = [predict(state, s.images).argmax(-1) == s.labels for s in judged]
    accuracies.append(np.mean(np.concatenate(right)))
  assert accuracies[0] > 0.8
  assert abs(accuracies[0] - accuracies[1]) <= 0.02
  assert final[0] != final[1]  # the precision was another


@pytest.mark.parametrize(
  ('name', 'frozen'),
  [
    ('resnet18', ()),
    ('resnet18', ('backbone/.*',)),
    ('convnext_tiny', ()),
    ('vit_tiny_patch16_224', ()),
  ],
)
@jax.numpy_dtype_promotion('standard')  # flax's norms mix the two
def test_a_step_of_published_networks_keeps_every_dtype(name, frozen):
  """Shapes and dtypes alone."""
  model = models.create(name, 10, dtype=jnp.bfloat16)
  method = plain.method(*labels.freeze(model, optax.adamw(1e-3), *frozen))
  batch = {'image': jnp.ones((2, 64, 64, 3)), 'label': jnp.arange(2)}
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  after, metrics = jax.eval_shape(method.step, state, batch)
  assert dtypes(after) == dtypes(state)
  assert not any('bfloat16' in dtype for dtype in dtypes(after).values())
  assert metrics['loss'].dtype == jnp.float32


def test_remat_has_the_same_gradients_for_one_more_forward_pass():
  images = jax.random.uniform(jax.random.key(0), (16, 16, 16, 3))
  answers = jnp.arange(16) % 10
  variables = resnet8().init(jax.random.key(1), images)

  def compiled(**options):
    model = resnet8(**options)

    def loss(params):
      variables_ = {**variables, 'params': params}
      outputs, state = model.apply(
        variables_, images, train=True, mutable=['batch_stats']
      )
      return losses.cross_entropy(outputs['logits'], answers), state

    return jax.jit(jax.grad(loss, has_aux=True)).lower(variables['params']).compile()

  plain_step, remat_step = compiled(), compiled(remat=True)
  wanted, statistics = plain_step(variables['params'])
  got, remat_statistics = remat_step(variables['params'])
  error = optax.tree.norm(optax.tree.sub(got, wanted)) / optax.tree.norm(wanted)
  assert error < 1e-6
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    remat_statistics,
    statistics,
  )
  flops = [c.cost_analysis()['flops'] for c in (plain_step, remat_step)]
  assert flops[1] > 1.1 * flops[0]
