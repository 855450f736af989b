"""The embedded domain pair: real handwritten digits, plain and over photographs.

Both domains come from the 1,797 scanned digits that scikit-learn ships (Alpaydin and
Kaynak, 1998; 8x8 pixels), one half each, so no digit is in both. `digits-m` follows
the construction of MNIST-M (Ganin et al., 2016): the absolute difference of a digit
and a random crop of a colour photograph, here of scikit-learn's two sample photographs.
"""

import numpy as np
from etils import epy
from PIL import Image

from tljax.data.dataset import stratified
from tljax.data.source import Source, Splits

with epy.lazy_imports():  # it is slow to import
  from sklearn import datasets

NAMES = ('digits', 'digits-m')
SIZE = 16  # pixels
_FRACTIONS = {'train': 0.6, 'validation': 0.1, 'test': 0.3}
_SEED = 1  # part of the data sets' definition, not of a run's configuration
_CROP = 48  # pixels of the photograph that a digit is laid over


def read(name: str) -> Splits:
  """Returns the splits 'train', 'validation' and 'test' of 'digits' or 'digits-m'."""
  bunch = datasets.load_digits()
  halves = stratified(bunch.target, {'digits': 0.5, 'digits-m': 0.5}, _SEED)
  mine = halves[name]
  images = np.stack([_upscale(image) for image in bunch.images[mine]])
  if name == 'digits-m':
    images = _blend(images, np.random.default_rng(_SEED))
  classes = tuple(str(k) for k in range(10))
  whole = Source(images, bunch.target[mine].astype(np.int32), classes, name)
  parts = stratified(whole.labels, _FRACTIONS, _SEED)
  return {part: whole.take(indices) for part, indices in parts.items()}


def _upscale(image: np.ndarray) -> np.ndarray:
  """An 8x8 image of 0..16 as (SIZE, SIZE, 3) uint8, white ink on black."""
  grey = Image.fromarray(np.uint8(np.round(image * (255 / 16))))
  resized = grey.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
  return np.repeat(np.asarray(resized)[..., None], 3, -1)


def _blend(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Absolute difference of each image and a random, shrunken crop of a photograph."""
  photographs = datasets.load_sample_images().images
  blended = np.empty_like(images)
  for i, image in enumerate(images):
    photograph = photographs[rng.integers(len(photographs))]
    height, width = photograph.shape[:2]
    top, left = rng.integers(height - _CROP + 1), rng.integers(width - _CROP + 1)
    crop = Image.fromarray(photograph[top : top + _CROP, left : left + _CROP])
    crop = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    blended[i] = np.abs(crop.astype(np.int16) - image)
  return blended
