import numpy as np
import pytest
from sklearn.datasets import load_digits

from tljax import data
from tljax.data import digits


@pytest.fixture(scope='module')
def origins():
  """By domain, the scans that it was made of: their 8x8 pixels as bytes."""
  with pytest.MonkeyPatch.context() as patch:
    upscale, scans = digits._upscale, {name: [] for name in digits.NAMES}
    for name in digits.NAMES:

      def record(image, scans=scans[name]):
        scans.append(image.tobytes())
        return upscale(image)

      patch.setattr(digits, '_upscale', record)
      data.load(name, data.Transform(16))
  return scans


def test_no_scan_is_in_both_domains_and_none_is_lost(origins):
  plain, blended = map(set, origins.values())
  assert not plain & blended
  assert plain | blended == {image.tobytes() for image in load_digits().images}


@pytest.mark.parametrize('name', digits.NAMES)
def test_splits_are_disjoint_and_in_proportion(domains, name):
  splits = domains[name]
  images = {k: {image.tobytes() for image in s.images} for k, s in splits.items()}
  sizes = {k: len(split) for k, split in splits.items()}
  whole = sum(sizes.values())
  assert abs(whole - 1797 / 2) < 6
  assert sum(map(len, images.values())) == len(set().union(*images.values())) == whole
  for split, share in [('train', 0.6), ('validation', 0.1), ('test', 0.3)]:
    assert abs(sizes[split] - share * whole) < 6
    np.testing.assert_array_equal(np.unique(splits[split].labels), np.arange(10))


@pytest.mark.parametrize('name', digits.NAMES)
def test_images_labels_and_repetition(domains, name):
  again = data.load(name, data.Transform(16))
  for split, dataset in domains[name].items():
    assert dataset.images.shape[1:] == (digits.SIZE, digits.SIZE, 3)
    assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
    assert dataset.fingerprint() == again[split].fingerprint()


def test_labels_are_the_scans(domains):
  """Shrunk again, a plain digit is nearest to a scan of its own label."""
  bunch, test = load_digits(), domains['digits']['test']
  shrunk = test.images[..., 0].reshape(-1, 8, 2, 8, 2).mean((2, 4)) * (16 / 255)
  distance = ((shrunk[:, None] - bunch.images[None]) ** 2).sum((2, 3))
  assert np.mean(bunch.target[distance.argmin(1)] == test.labels) > 0.99


def test_plain_digits_are_grey_on_black(domains):
  images = domains['digits']['train'].images
  assert np.ptp(images, -1).max() == 0
  assert images[:, :, 0].mean() < 1 and images.max() == 255


def test_blended_is_the_absolute_difference_of_digit_and_crop():
  """A black digit leaves the crop bare, and the same seed cuts the same crops."""
  scans = load_digits().images[:20]
  images = np.stack([digits._upscale(scan) for scan in scans])

  def blend(images):
    return digits._blend(images, np.random.default_rng(4))

  crops = blend(np.zeros_like(images)).astype(int)
  np.testing.assert_array_equal(blend(images), np.abs(crops - images.astype(int)))
  assert np.ptp(crops, -1).max() > 30  # colour
  assert np.ptp(crops, (1, 2, 3)).min() > 0  # of a picture, not one tone
  assert len({crop.tobytes() for crop in crops}) == len(crops)
