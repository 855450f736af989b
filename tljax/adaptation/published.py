"""Settings of published trainings: presets, by method.

- `library`: the tables of Transfer-Learning-Library (Jiang et al., 2022, and its
  scripts), those of Office-31 where they differ; of Office-Home for methods of several
  sources, of dSprites for RSD. Baselines have DANN's, though its own source-only
  networks have a rate of 0.001, a tenth for the backbone, and no bottleneck.
- `digits`: its MNIST to USPS, 50,000 steps of 128 images of each domain. From USPS the
  rate is 0.1 (`digits:rate=0.1`), but MDD's is 0.01 and AFN's 0.03; from SVHN it is 0.1
  of ADDA, AFN and BSP, 0.03 of DANN, JAN and MCD, and 0.01 of the others. AFN's `delta`
  is 0.1 from either (`afn:delta=0.1`).
- `paper`: each method's own, of what its authors train that starts from published
  weights, else of digits; by the paper's text, else its authors' code. Deep CORAL's,
  CMD's rate and DANN's, MADA's and JAN's weight decay are from memory.

`library` has not adabn, bnm, cmd, co_training, coral, cst, dare_gram, dctn, deepjdot,
entropy, homm, m3sda, mada, mme, ovanet, sdat, shot, tent and wdgrl. `digits` has only
adda, afn, bsp, cdan, dan, dann, jan, mcc, mcd and mdd. `paper` has not adabn, dctn and
self_training: AdaBN trains on the source as one likes, and of the others neither code
of the authors nor their text was found, to see their settings in.

Batches are the user's, but for FixMatch's share of the target. What no option here has
is left out: how new layers are drawn, and dropout but AFN's, MCD's, MDD's and the
library's self-training's. Of the papers': a bottleneck of two layers (WDGRL), a last
block that trains (HoMM); adaptive SAM (CST); an average of weights (FixMatch); a second
update a step (MME); Adam's new start and still batch norms (DomainBed). Of the
library's: PADA's weights of its last 500 steps by a sharper softmax, IWAN's dropout in
discriminators and its 4.5 times the loss of what weighs examples, BSP's three epochs of
the source alone before, the student's deployment and colours of self-ensembling, and
self-training's tenth of the loss of strong views; RSD's sigmoid over its head; of
several sources, momentum's new start (IRM, V-REx), the distance of the means (CORAL),
and a pass for each domain (GroupDRO). RSD and self-training pass the domains by turns
there.
"""

from tljax.adaptation.library import DIGITS, LIBRARY
from tljax.adaptation.papers import PAPER

PRESETS = {'library': LIBRARY, 'digits': DIGITS, 'paper': PAPER}
