import pytest

from tljax.adaptation import dan
from tljax.measures import shift


@pytest.mark.parametrize('linear', [False, True])
def test_one_step(check_step, linear):
  def build(*args):
    names = ('features', 'logits')
    return dan.method(*args, strength=0.5, endpoints=names, linear=linear)

  def term(source, target):
    features = shift.mmd(source['features'], target['features'], linear=linear)
    logits = shift.mmd(source['logits'], target['logits'], linear=linear)
    return 0.5 * (features + logits)

  check_step(build, term)


def test_by_default_the_features_alone_are_aligned(check_step):
  def term(source, target):
    return shift.mmd(source['features'], target['features'])

  check_step(dan.method, term)


def test_the_kernel_can_be_chosen(check_step):
  kernel = shift.gaussian(0.7)

  def term(source, target):
    return shift.mmd(source['features'], target['features'], kernel=kernel)

  check_step(lambda *args: dan.method(*args, kernel=kernel), term)
