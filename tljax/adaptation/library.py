"""Settings of Transfer-Learning-Library's tables and digits; see `published`."""

from tljax.adaptation.adversarial import Discriminator
from tljax.adaptation.settings import (
  ADAM,
  AFN,
  MDD,
  STEADY,
  Settings,
  after,
  in_two,
  inverse,
  mcd,
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
  'osbp': _OFFICE._replace(rate=0.001, weight_decay=5e-4, decay=inverse(3.0)),
  'pada': _OFFICE._replace(rate=0.002, options=_NORMED),
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
