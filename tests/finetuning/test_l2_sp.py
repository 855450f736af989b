import jax
import numpy as np

from tljax.finetuning import l2_sp


def test_one_step(check_step):
  def penalty(params, start, outputs, images):
    del outputs, images
    backbone = zip(
      jax.tree.leaves(params['backbone']),
      jax.tree.leaves(start['params']['backbone']),
      strict=True,
    )
    distance = sum(((w - w0) ** 2).sum() for w, w0 in backbone)
    norm = sum((v**2).sum() for v in jax.tree.leaves(params['head']))
    return 0.3 * distance + 0.2 * norm

  check_step(lambda *args: l2_sp.method(*args, strength=0.6, head_decay=0.4), penalty)


def test_squared_distance(check_slow):
  def slow(a, b, a0, b0):
    return sum((a - a0) ** 2) + sum(sum((b - b0) ** 2))

  def loss(a, b, a0, b0):
    return l2_sp.squared_distance({'x': a, 'y': {'z': b}}, {'x': a0, 'y': {'z': b0}})

  rng = np.random.default_rng(0)
  check_slow(loss, slow, *(rng.normal(size=s) for s in (3, (2, 2), 3, (2, 2))))
