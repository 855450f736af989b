import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models, optimizers
from tljax.finetuning import labels, lora, lp_ft, plain, summary
from tljax.models import convolution

BATCH = {'image': jnp.zeros((16, 16, 16, 3)), 'label': jnp.zeros(16, jnp.int32)}
# Kernel, scale and bias of the norm, of the cnn's stages; and the head.
SIZES = {
  'backbone/stage1': 3 * 3 * 3 * 16 + 2 * 16,
  'backbone/stage2': 3 * 3 * 16 * 32 + 2 * 32,
  'backbone/stage3': 3 * 3 * 32 * 64 + 2 * 64,
  'head': 64 * 10 + 10,
}


@pytest.fixture(scope='module')
def cnn():
  return models.create('cnn', 10)


def groups(method, optimizer):
  return summary.groups(summary.abstract_state(method, None, BATCH), optimizer)


def test_what_trains_and_its_rate(cnn):
  chain = optax.chain(
    optax.adamw(optax.cosine_decay_schedule(0.01, 5), weight_decay=0.1),
    optimizers.layer_decay(cnn.spec, 0.5),
  )
  model, optimizer = labels.freeze(
    cnn, chain, 'backbone/stage2/.*', '.*/stage3/conv/.*'
  )
  got = groups(plain.method(model, optimizer), optimizer)
  assert {name: group.parameters for name, group in got.items()} == SIZES
  assert {name: group.trained for name, group in got.items()} == {
    'backbone/stage1': SIZES['backbone/stage1'],
    'backbone/stage2': 0,
    'backbone/stage3': 2 * 64,
    'head': SIZES['head'],
  }
  rates = {name: group.rates for name, group in got.items()}
  for name, rate in (('stage1', 0.00125), ('stage2', 0.0), ('stage3', 0.005)):
    np.testing.assert_allclose(rates[f'backbone/{name}'], rate, rtol=1e-4)
  np.testing.assert_allclose(rates['head'], 0.01, rtol=1e-4)


def test_a_groups_rates_may_differ(cnn):
  rules = [('.*/kernel', 'fast'), ('.*', 'slow')]
  optimizer = labels.transform(
    {'fast': optax.adam(0.1), 'slow': optax.adam(0.01)}, rules
  )
  for group in groups(plain.method(cnn, optimizer), optimizer).values():
    np.testing.assert_allclose(group.rates, (0.01, 0.1), rtol=1e-4)


def test_what_a_method_freezes_itself(cnn):
  optimizer = optax.adam(0.01)
  got = groups(lora.method(cnn, optimizer, rank=2), optimizer)
  # A has the window of its kernel, B is 1x1.
  wanted = sum(2 * (9 * i + o) for i, o in ((3, 16), (16, 32), (32, 64)))
  assert got['lora'].parameters == got['lora'].trained == wanted
  assert got['head'].trained == SIZES['head']
  assert all(got[f'backbone/stage{i}'].trained == 0 for i in (1, 2, 3))
  got = groups(lp_ft.method(cnn, optimizer), optimizer)  # of its two phases, any
  assert {name: group.trained for name, group in got.items()} == SIZES


def test_an_optimiser_without_state_does_not_tell_what_trains(cnn, capsys):
  optimizer = optax.sgd(0.01)
  got = groups(plain.method(cnn, optimizer), optimizer)
  assert {name: group.trained for name, group in got.items()} == dict.fromkeys(SIZES)
  assert got['head'].rates == pytest.approx((0.01, 0.01))
  warming = optax.sgd(optax.linear_schedule(0, 0.1, 10))
  got = groups(plain.method(cnn, warming), warming)
  assert got['head'].trained is None and got['head'].rates == pytest.approx((0.01,) * 2)
  model, frozen = labels.freeze(cnn, optimizer, 'backbone/.*')
  got = groups(plain.method(model, frozen), frozen)
  assert got['backbone/stage1'].trained == 0 and got['head'].trained is None
  summary.show(plain.method(cnn, optimizer), optimizer, None, BATCH)
  assert capsys.readouterr().out.count('?') == len(SIZES)


def test_memory_by_hand(cnn):
  """Adam keeps two copies; what is frozen has none."""

  def sizes(*frozen):
    method = plain.method(*labels.freeze(cnn, optax.adam(0.01), *frozen))
    return summary.memory(method, summary.abstract_state(method, None, BATCH), BATCH)

  statistics, batch = 4 * 2 * (16 + 32 + 64), 4 * (16 * 16 * 16 * 3 + 16)
  everything, head = 4 * sum(SIZES.values()), 4 * SIZES['head']
  with convolution.by_xla():  # ours lay windows side by side
    full, frozen = sizes(), sizes('backbone/.*')
  few = 100  # step, key and counts
  wanted = 3 * everything + statistics + batch
  assert 0 <= full['state and batch'] - wanted <= few
  wanted = everything + 2 * head + statistics + batch
  assert 0 <= frozen['state and batch'] - wanted <= few
  # A backward pass keeps all three maps before the norms, at least.
  maps = 4 * 16 * (16 * 16 * 16 + 8 * 8 * 32 + 4 * 4 * 64)
  assert frozen['within the step'] < maps < full['within the step']


def test_it_is_printed(cnn, capsys):
  optimizer = optax.adam(0.01)
  summary.show(plain.method(cnn, optimizer), optimizer, None, BATCH)
  out = capsys.readouterr().out
  for words in (
    ('backbone/stage3', '18,560', '0.01'),
    ('MiB',),
    (jax.default_backend(),),
  ):
    assert any(all(word in line for word in words) for line in out.splitlines())
