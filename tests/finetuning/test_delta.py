import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import losses
from tljax.finetuning import delta
from tljax.models.base import Classifier, Linear, Spec


@pytest.mark.parametrize('shape', [(2, 3, 2, 4), (2, 5, 4)], ids=['map', 'tokens'])
@pytest.mark.parametrize('attended', [False, True])
def test_map_distance(check_slow, shape, attended):
  rng = np.random.default_rng(0)
  attention = np.array([0.1, 0.2, 0.3, 0.4]) if attended else np.full(4, 0.25)

  def slow(maps, kept):
    maps, kept = (x.reshape(2, -1, 4) for x in (maps, kept))
    total = 0.0
    for image in range(2):
      for c in range(4):
        gap = maps[image, :, c] - kept[image, :, c]
        total += 4 * attention[c] * np.sum(gap**2) / len(gap) / 2
    return total / 2

  def loss(maps, kept):
    return delta.map_distance(maps, kept, jnp.asarray(attention) if attended else None)

  check_slow(loss, slow, rng.normal(size=shape), rng.normal(size=shape))


@pytest.fixture
def attention():
  return {
    name: jax.nn.softmax(jnp.arange(8.0) * scale)
    for name, scale in (('stage1', 0.3), ('stage2', -0.2))
  }


@pytest.mark.parametrize('attended', [False, True])
def test_one_step(check_step, model, attention, attended):
  chosen = attention if attended else None
  names = ('stage2',) if attended else ('stage1', 'stage2')

  def penalty(params, start, outputs, images):
    kept = model.apply(start, images)
    value = sum(
      delta.map_distance(outputs[n], kept[n], attention[n] if attended else None)
      for n in names
    )
    return 0.7 * value + 0.2 * sum(
      jnp.sum(leaf**2) for leaf in jax.tree.leaves(params['head'])
    )

  options = {'endpoints': names} if attended else {}
  check_step(
    lambda *args: delta.method(
      *args, strength=0.7, head_decay=0.4, attention=chosen, **options
    ),
    penalty,
  )


def test_attention_is_by_the_growth_of_the_loss_without_a_channel(
  model, family_batches
):
  """A channel goes with the scale and the bias of its norm, before the ReLU."""
  batches = [family_batches['finetuning'](t) for t in range(2)]
  variables = model.init(jax.random.key(3), batches[0]['image'])
  got = delta.channel_attention(model, variables, batches)
  assert list(got) == ['stage1', 'stage2']

  def loss(variables):
    values = []
    for batch in batches:
      logits = model.apply(variables, batch['image'])['logits']
      values.append(losses.cross_entropy(logits, batch['label']))
    return np.mean(values)

  for name in got:
    growth = []
    for channel in range(8):
      without = jax.tree.map(lambda x: x, variables)  # nested dicts of its own
      norm = without['params']['backbone'][name]['norm']
      without['params']['backbone'][name]['norm'] = jax.tree.map(
        lambda x, c=channel: x.at[c].set(0), norm
      )
      growth.append(loss(without) - loss(variables))
    standard = (growth - np.mean(growth)) / np.std(growth) / 5
    wanted = np.exp(standard) / np.sum(np.exp(standard))
    np.testing.assert_allclose(got[name], wanted, rtol=1e-3)
    assert np.ptp(wanted) > 0.01


class Activated(nn.Module):
  """An endpoint that is not what its module gives, as an activation follows it."""

  @nn.compact
  def __call__(self, x, train=False):
    hidden = nn.silu(nn.remat(nn.Dense)(6, name='hidden')(x))
    return {'hidden': hidden, 'features': hidden}


def test_attention_of_what_a_module_gives():
  model = Classifier(Activated(), Linear(2), Spec(0, 0, (0.0,), (1.0,), ('hidden',), 6))
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.random((4, 3), np.float32),
    'label': np.arange(4, dtype=np.int32) % 2,
  }
  variables = model.init(jax.random.key(0), batch['image'])
  got = delta.channel_attention(model, variables, [batch])['hidden']
  params = variables['params']
  given = batch['image'] @ params['backbone']['hidden']['kernel']
  growth = []
  for channel in range(6):
    hidden = nn.silu(given.at[:, channel].set(0))
    logits = model.head.apply({'params': params['head']}, {'features': hidden})
    growth.append(losses.cross_entropy(logits, batch['label']))
  wanted = jax.nn.softmax((growth - np.mean(growth)) / np.std(growth) / 5)
  np.testing.assert_allclose(got, wanted, rtol=1e-3)
