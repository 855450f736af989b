"""Settings of each method's own paper; see `published`."""

import math

import optax

from tljax.adaptation.settings import (
  ADAM,
  AFN,
  MDD,
  MOMENTUM,
  STEADY,
  Settings,
  cosine,
  half_cosine,
  in_two,
  inverse,
  jump,
  mcd,
  warm_up,
)
from tljax.models.heads import WeightNorm

_ANNEALED = Settings(decay=inverse(10.0))  # (1 + 10 p)^-0.75 at a share p of the run
_STEPWISE = Settings(weight_decay=1e-3, decay=inverse(50.0), ramp=warm_up(50.0))
_MINIMAX = Settings(weight_decay=5e-4, decay=inverse(5.0), width=512)
_REGRESSION = Settings(0.1, 1e-3, inverse(2.0), width=None)
_SCRATCH = Settings(direction=ADAM, backbone=1.0, width=None)
_DOMAINBED = _SCRATCH._replace(rate=5e-5)
PAPER = {
  # The second phase at a fifth of the first's rate, Adam's beta1 being 0.5.
  'adda': _SCRATCH._replace(
    rate=1e-3,
    decay=in_two(0.5, (1.0, 0.0), (0.2, 0.0)),
    direction=optax.scale_by_adam(b1=0.5),
    options={'strength': 1.0},
  ),
  'afn': Settings(**STEADY, **AFN, rate=0.001, weight_decay=5e-4),
  'bnm': Settings(weight_decay=1e-3, decay=inverse(6.0), width=None),
  'bsp': _STEPWISE._replace(rate=0.003, options={'penalty': 1e-4}, activation='relu'),
  'cdan': _ANNEALED._replace(weight_decay=1e-3),
  'cmd': Settings(1.0, direction=optax.scale_by_adadelta(rho=0.95), backbone=0.0),
  'co_training': Settings(
    0.05, direction=MOMENTUM, backbone=1.0, first_phase=1 / 30, width=None
  ),
  'coral': Settings(weight_decay=5e-4, direction=MOMENTUM, width=None),
  'cst': Settings(
    0.005,
    1e-3,
    inverse(30.0),
    MOMENTUM,
    options={'strength': 2.0},
    width=2048,
    norm='batch',
  ),
  'dan': Settings(
    decay=inverse(20.0),
    direction=MOMENTUM,
    options={'endpoints': ('features', 'logits'), 'linear': True},
    width=None,
  ),
  'dann': _ANNEALED._replace(direction=MOMENTUM),
  'dare_gram': _REGRESSION,
  'deepjdot': Settings(
    1e-4,
    direction=ADAM,
    backbone=1.0,
    options={'strength': 1e-4, 'alpha': 10.0},
    width=128,
  ),
  'entropy': _MINIMAX,
  'fixmatch': Settings(
    0.03, 5e-4, cosine(7 / 16 * math.pi), backbone=1.0, width=None, target_batches=7
  ),
  'group_dro': Settings(1e-3, 1e-4, direction=MOMENTUM, backbone=1.0, width=None),
  'homm': Settings(
    3e-4,
    0.01,
    direction=ADAM,
    backbone=0.0,
    options={'strength': 200.0, 'order': 4},
    width=180,
    activation='tanh',
  ),
  'irm': _DOMAINBED._replace(ramp=jump(0.1)),
  'iwan': Settings(
    0.003, decay=inverse(50.0), direction=MOMENTUM, strength=0.1, ramp=warm_up(5.0)
  ),
  'jan': _ANNEALED._replace(
    weight_decay=5e-4,
    direction=MOMENTUM,
    options={'linear': True},
    strength=1.0,
    width=None,
  ),
  'm3sda': _SCRATCH._replace(
    rate=2e-4, weight_decay=5e-4, options={'strength': 1e-4, 'moments': 5}
  ),
  'mada': _ANNEALED._replace(direction=MOMENTUM),
  'mcc': _STEPWISE._replace(rate=0.003, norm='batch', activation='none'),
  'mcd': Settings(
    **STEADY,
    rate=0.001,
    weight_decay=5e-4,
    options={'balance': 0.01},
    **mcd(1000),
  ),
  'mdd': Settings(0.004, 5e-4, inverse(20.0), ramp=warm_up(100.0), **MDD),
  'mean_teacher': Settings(
    1e-5,
    direction=ADAM,
    options={'strength': 10.0, 'threshold': 0.9, 'balance': 0.01},
    width=512,
  ),
  'mixstyle': Settings(
    1e-3,
    5e-4,
    half_cosine,
    MOMENTUM,
    backbone=1.0,
    options={'stages': ('stage1', 'stage2', 'stage3')},
    width=None,
  ),
  'mme': _MINIMAX,
  'osbp': Settings(0.001, 5e-4, backbone=0.0, width=100, norm='batch'),
  'ovanet': _ANNEALED._replace(weight_decay=5e-4, width=None),
  'pada': _STEPWISE,
  'rsd': _REGRESSION,
  'sdat': Settings(0.002, 1e-3, inverse(30.0), norm='batch'),
  'shot': Settings(
    weight_decay=1e-3,
    decay=in_two(0.5, (1.0, 10.0), (1.0, 10.0)),
    norm='batch',
    activation='none',
    head=WeightNorm,
  ),
  'source_coral': _DOMAINBED._replace(options={'strength': 4.0}),
  'tent': _SCRATCH._replace(rate=1e-3, norm='batch'),
  'vrex': _DOMAINBED._replace(ramp=jump(0.1)),
  'wdgrl': Settings(
    1e-4,
    1e-5,
    direction=ADAM,
    backbone=0.0,
    options={'strength': 0.1, 'critic_steps': 10, 'critic_rate': 10.0},
    width=100,
    activation='relu',
  ),
}
