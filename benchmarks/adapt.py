"""One training step of domain adaptation, in tljax and in PyTorch."""

import jax
import jax.numpy as jnp

from benchmarks import steps
from benchmarks.harness import Contenders, stepper
from tljax import adaptation, models

METHODS = ('dann', 'cdan', 'mcd')
# Of Transfer-Learning-Library's examples: pixels, classes, batch of a domain.
NETWORKS = {'lenet': (28, 10, 36), 'cnn': (16, 10, 32), 'resnet50': (224, 31, 36)}
STRENGTH, MAP_WIDTH = 0.5, 1024  # of the game; of CDAN's random map


def adapted(network: str, name: str, settings: steps.Settings) -> Contenders:
  """A step of domain adaptation that trains all weights, beside PyTorch's."""
  pixels, classes, count = NETWORKS[network]
  arrays = steps.draw(settings.batch_size or count, pixels, classes, domains=2)
  batch = jax.tree.map(jnp.asarray, arrays)
  source = {'image': batch['image'], 'label': batch['label']}
  options = {} if name == 'mcd' else {'strength': STRENGTH}
  model = steps.build_model(network, classes, settings.dtype)
  method = adaptation.create(name, model, steps.optimizer(), **options)
  ours = stepper(method, {'source': source, 'target': {'image': batch['target']}})
  ours = steps.with_flops(ours, network, name, pixels, 2 * len(arrays['label']))
  width = models.spec(network).feature_dim
  given = network, name, width, classes, STRENGTH, MAP_WIDTH
  return {
    'tljax': ours,
    **steps.peers('torch_adapt.adaptation', given, arrays, settings),
  }
