"""Settings of Transfer-Learning-Library's tables and digits; see `published`."""

from tljax.adaptation.adversarial import Discriminator
from tljax.adaptation.settings import (
  ADAM,
  AFN,
  MDD,
  STEADY,
  Settings,
  after,
  half_cosine,
  in_two,
  inverse,
  jump,
  mcd,
  renewed,
  warm_up,
)


def _self_ensembling(classes):
  """3 x the squares + 0.01 x the cross-entropies.

  Over classes the library sums the squares and takes the others' mean; French et al.
  have it the other way round.
  """
  strength = 3.0 * classes
  return {
    'threshold': 0.8,
    'strength': strength,
    'balance': 0.01 / (strength * classes),
  }


# Three epochs before 20. Reversal is at up to 2 there, of half the losses' sum.
_ADDA = 3 / 23
# Its gradient reversal is at 2 / (1 + exp(-t / 1000)) - 1 after t of 20,000 steps.
_OFFICE = Settings(
  weight_decay=1e-3, decay=inverse(20.0), ramp=warm_up(20.0), norm='batch'
)
# Its scripts' discriminator but IWAN's, which has dropout in place of norms.
_NORMED = {'discriminator': Discriminator(norm='batch')}
# Its scripts multiply out up to ImageNet-R's 256 x 200, and draw as many of DomainNet's
# 1,024 x 345. That they multiply out ImageNet-Sketch's 1,024 x 1,000 is not kept.
_CDAN = {'widest': 51_200, 'random_width': 51_200, **_NORMED}
# Domain generalisation, of Office-Home: of PACS batch norms are still besides, and
# MixStyle mixes at a third stage. Where a strength jumps, at step 500 of 10,000, the
# rate's fall begins anew.
_GENERAL = Settings(
  rate=5e-4, weight_decay=5e-4, decay=half_cosine, backbone=1.0, width=None
)
_ANNEALED = _GENERAL._replace(decay=renewed(0.05), ramp=jump(0.05))
LIBRARY = {
  'adda': _OFFICE._replace(
    rate=0.001,
    decay=in_two(_ADDA, (1.0, 0.9), (1.0, 6.0)),
    options=_NORMED,
    strength=1.0,
    ramp=after(_ADDA, warm_up(20.0)),
    first_phase=_ADDA,
  ),
  'afn': _OFFICE._replace(
    **STEADY,
    **AFN,
    rate=0.001,
    weight_decay=5e-4,
    options={'delta': 1.0, 'entropy': 0.1},
  ),
  'bsp': _OFFICE._replace(rate=0.003, options={'penalty': 2e-4, **_NORMED}),
  'cdan': _OFFICE._replace(options=_CDAN),
  'dan': _OFFICE._replace(
    rate=0.003, weight_decay=5e-4, decay=inverse(3.0), options={'linear': True}
  ),
  'dann': _OFFICE._replace(options=_NORMED),
  'fixmatch': _OFFICE._replace(
    rate=0.001, decay=inverse(8.0), options={'threshold': 0.9}, target_batches=3
  ),
  'group_dro': _GENERAL._replace(options={'rate': 0.01}),
  'irm': _ANNEALED._replace(strength=1.0),  # where it was before
  'iwan': _OFFICE._replace(rate=0.001, decay=inverse(10.0), strength=3.0),
  'jan': _OFFICE._replace(rate=0.003, weight_decay=5e-4, decay=inverse(3.0)),
  'mcc': _OFFICE._replace(
    rate=0.005, decay=inverse(10.0), options={'temperature': 2.5}, width=1024
  ),
  'mcd': _OFFICE._replace(
    **STEADY,
    **mcd(1024),
    rate=0.001,
    weight_decay=5e-4,
    options={'strength': 10.0, 'balance': 0.01},  # of 31 classes; of 65 30, of 12 1
  ),
  'mdd': _OFFICE._replace(
    **MDD,
    rate=0.004,
    weight_decay=5e-4,
    decay=inverse(4.0),
  ),
  'mean_teacher': _OFFICE._replace(
    rate=1e-4,
    weight_decay=0.0,
    decay=inverse(10.0),
    direction=ADAM,
    options=_self_ensembling,
  ),
  'mixstyle': _GENERAL._replace(
    rate=1e-3,
    options={'stages': ('stage1', 'stage2'), 'probability': 0.5, 'alpha': 0.1},
  ),
  'osbp': _OFFICE._replace(rate=0.001, weight_decay=5e-4, decay=inverse(3.0)),
  'pada': _OFFICE._replace(rate=0.002, options=_NORMED),
  # Of regressions of dSprites and MPI3D. Its script's head is 512 wide, on a bottleneck
  # of 256, and would not run.
  'rsd': Settings(
    0.1,
    1e-3,
    inverse(2.0),
    options={'strength': 0.001, 'mismatch': 0.1},
    activation='relu',
  ),
  # Of its semi-supervised learning, where the two domains are one: of CUB-200 and
  # Caltech-101; the other sets' rates are from 0.001 to 0.03.
  'self_training': _OFFICE._replace(
    rate=0.003,
    weight_decay=5e-4,
    decay=inverse(4.0),
    options={'strength': 1.0, 'threshold': 0.9},
    width=1024,
    dropout=0.5,
  ),
  'source_coral': _GENERAL._replace(options={'strength': 4.0}),  # 1 of its own, over 4
  'vrex': _ANNEALED._replace(strength=3.0),
}

# Of networks from scratch, whose backbone has the whole rate.
_DIGITS = _OFFICE._replace(decay=inverse(50.0), ramp=warm_up(50.0), scratch=True)
DIGITS = {
  'adda': _DIGITS._replace(
    decay=in_two(_ADDA, (0.1, 2.25), (1.0, 15.0)),
    options=_NORMED,
    strength=1.0,
    ramp=after(_ADDA, warm_up(50.0)),
    first_phase=_ADDA,
  ),
  'afn': _DIGITS._replace(
    **STEADY,
    **AFN,
    weight_decay=5e-4,
    options={'delta': 0.3, 'entropy': 0.03},
  ),
  'bsp': _DIGITS._replace(options={'penalty': 1e-4, **_NORMED}),
  'cdan': _DIGITS._replace(options=_CDAN),
  'dan': _DIGITS._replace(
    weight_decay=5e-4, decay=inverse(15.0), options={'linear': True}
  ),
  'dann': _DIGITS._replace(options=_NORMED),
  'jan': _DIGITS._replace(weight_decay=5e-4, decay=inverse(15.0)),
  'mcc': _DIGITS._replace(options={'temperature': 2.5}),
  'mcd': _DIGITS._replace(
    **STEADY,
    **mcd(1024),
    weight_decay=5e-4,
    options={'strength': 0.3, 'balance': 0.03},
  ),
  'mdd': _DIGITS._replace(**MDD, weight_decay=5e-4, decay=inverse(10.0)),
}
