import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import vision
from tljax import sharding
from tljax.data import augment, color, randaugment
from tljax.errors import InputError

CHANGES = {
  augment.invert_contrast: lambda image: np.float32(1) - image,
  augment.flip: lambda image: image[:, ::-1],
}
AUGMENTS = {
  'invert_contrast': augment.invert_contrast,
  'flip': augment.flip,
  'random_resized_crop': augment.RandomResizedCrop(10, flip=0.5),
  'shift': augment.shift(0.25),
  'random_erasing': augment.random_erasing(),
  'cutout': augment.cutout(),
  'color_jitter': color.color_jitter(0.4, 0.4, 0.4, 0.1),
  'rand_augment': randaugment.rand_augment(),
  'compose': augment.compose(augment.RandomResizedCrop(8), augment.flip),
}
MIXES = {
  'mixup': augment.mixup(1.0, 16),
  'cutmix': augment.cutmix(1.0, 16),
  'mixup_or_cutmix': augment.mixup_or_cutmix(16),
}
KEY = jax.random.key(0)


def noise(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def crop_boxes(count, *options, **named):
  uniform = np.random.default_rng(0).random((count, 11, 2), np.float32)
  return augment.crop_boxes(uniform, *options, **named)


def quantiles(values):
  return np.quantile(values, np.linspace(0.05, 0.95, 10))


@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_each_image_is_changed_whole_half_the_time(change):
  images = noise(400, 3, 4, 3)
  changed = []
  for before, after in zip(images, change(KEY, images), strict=True):
    is_changed = np.array_equal(after, CHANGES[change](before))
    assert is_changed or np.array_equal(after, before)
    changed.append(is_changed)
  assert 0.4 < np.mean(changed) < 0.6


@pytest.mark.parametrize('name', AUGMENTS)
def test_the_key_and_the_image_decide_alone(name):
  traced = []

  @jax.jit
  def change(key, images):
    traced.append(images.shape)
    return AUGMENTS[name](key, images)

  images = np.tile(noise(1, 12, 16, 3), (16, 1, 1, 1))
  first = change(KEY, images)
  assert first.dtype == jnp.float32 and first.shape[0] == 16
  assert first.min() >= 0 and first.max() <= 1
  np.testing.assert_array_equal(first, change(KEY, images))
  assert not np.array_equal(first, change(jax.random.key(1), images))
  assert len(np.unique(np.asarray(first).reshape(16, -1), axis=0)) > 1

  neighbours = np.concatenate([images[:8], noise(8, 12, 16, 3)])
  np.testing.assert_array_equal(change(KEY, neighbours)[:8], first[:8])
  assert len(traced) == 1


def test_to_float():
  np.testing.assert_allclose(augment.to_float(jnp.uint8([0, 51, 255])), [0, 0.2, 1])
  np.testing.assert_array_equal(augment.to_float(jnp.array([3.0])), [3.0])


def test_crops_of_bytes_are_those_of_floats():
  stored = np.random.default_rng(0).integers(0, 256, (16, 12, 16, 3), np.uint8)
  crop = jax.jit(AUGMENTS['random_resized_crop'])
  of_floats = crop(KEY, stored.astype(np.float32) / 255)
  np.testing.assert_allclose(crop(KEY, stored), of_floats, atol=1e-6)


@pytest.mark.parametrize('name', AUGMENTS)
def test_accelerators_compute_what_a_cpu_does(name, monkeypatch):
  images = noise(16, 12, 16, 3)
  on_cpu = jax.jit(AUGMENTS[name])(KEY, images)

  def default_of(*args, cpu, default):
    del cpu
    return default(*args)

  monkeypatch.setattr(jax.lax, 'platform_dependent', default_of)
  other = jax.jit(lambda *args: AUGMENTS[name](*args))(KEY, images)
  np.testing.assert_allclose(on_cpu, other, atol=1e-6)


@pytest.mark.parametrize('name', [*AUGMENTS, 'mixup', 'cutmix'])
def test_eight_devices_give_what_one_does(name):
  batch = (noise(16, 12, 16, 3), np.arange(16))[: 1 if name in AUGMENTS else 2]
  change = jax.jit({**AUGMENTS, **MIXES}[name])
  whole = change(KEY, *batch)
  split = change(KEY, *sharding.shard_batch(batch, sharding.data_mesh()))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, split)


def test_compose_draws_apart_and_in_turn():
  def scale(key, images):
    return images * jax.random.uniform(key)

  def add(key, images):
    return images + jax.random.uniform(key)

  images = jnp.zeros((1, 1, 1, 1))
  added = augment.compose(add, add)(KEY, images)
  assert added != 2 * augment.compose(add)(KEY, images)
  assert augment.compose(add, scale)(KEY, images) > 0
  first = jax.random.split(KEY)[1]
  assert augment.compose(scale, add)(KEY, images) == jax.random.uniform(first)


def test_weak_and_strong_are_two_draws_of_every_image():
  views = augment.weak_strong(augment.shift(0.5), augment.shift(0.5))
  views = views(KEY, noise(4, 12, 16, 3))
  assert set(views) == {'image', 'strong'}
  assert not np.array_equal(views['image'], views['strong'])


@pytest.mark.parametrize('box', [(0, 0, 12, 16), (3, 5, 4, 9), (11, 15, 1, 1)])
@pytest.mark.parametrize('size', [(12, 16), (5, 30), (1, 2)])
def test_resized_crop_is_a_bilinear_resize(box, size):
  image = noise(12, 16, 3)
  top, left, height, width = box
  crop = image[top : top + height, left : left + width]
  expected = jax.image.resize(crop, (*size, 3), 'linear', antialias=False)
  np.testing.assert_allclose(
    augment.resized_crop(image, jnp.array(box), False, size), expected, atol=1e-5
  )
  mirrored = augment.resized_crop(image, jnp.array(box), True, size)
  np.testing.assert_allclose(mirrored, expected[:, ::-1], atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize('box', [(0, 0, 40, 56), (3, 5, 17, 29), (30, 50, 10, 6)])
def test_resized_crop_is_torchvisions(box):
  theirs = vision.transforms().functional.resized_crop(
    vision.to_torch(image := noise(40, 56, 3)), *box, [24, 32], antialias=False
  )
  ours = augment.resized_crop(image, jnp.array(box), False, (24, 32))
  np.testing.assert_allclose(ours, vision.from_torch(theirs), atol=1e-5)


def test_crop_boxes_lie_inside_and_have_the_area_and_ratio_asked_for():
  height, width = 300, 400
  boxes = crop_boxes(4000, (height, width), (0.2, 0.5), (0.5, 2.0))
  top, left, tall, wide = np.asarray(boxes).T
  assert (top >= 0).all() and (top + tall <= height).all()
  assert (left >= 0).all() and (left + wide <= width).all()
  share, ratio = tall * wide / height / width, wide / tall
  assert abs(share.min() - 0.2) < 0.01 and abs(share.max() - 0.5) < 0.01
  assert abs(ratio.min() - 0.5) < 0.01 and abs(ratio.max() - 2.0) < 0.02
  # Where there is room, every place is as likely.
  room = height - tall
  place = (top / np.maximum(room, 1))[room > 50]
  np.testing.assert_allclose(quantiles(place), np.linspace(0.05, 0.95, 10), atol=0.04)


@pytest.mark.parametrize(
  ('shape', 'box'),
  [((20, 100), (0, 36, 20, 27)), ((100, 20), (36, 0, 27, 20)), ((8, 8), (0, 0, 8, 8))],
)
def test_a_crop_that_never_fits_is_central(shape, box):
  boxes = crop_boxes(3, shape, (4.0, 4.0), (3 / 4, 4 / 3))
  np.testing.assert_array_equal(boxes, [box] * 3)


@pytest.mark.torch
@pytest.mark.parametrize('shape', [(64, 64), (40, 90)])
def test_crop_boxes_are_distributed_as_torchvisions(shape):
  options = {'scale': (0.08, 1.0), 'ratio': (3 / 4, 4 / 3)}
  theirs = vision.transforms().RandomResizedCrop(8, **options)
  image = vision.to_torch(np.zeros((*shape, 3), np.float32))
  vision.torch().manual_seed(0)
  drawn = [theirs.make_params([image]) for _ in range(2000)]
  ours = crop_boxes(2000, shape, **options)
  for i, name in enumerate(('top', 'left', 'height', 'width')):
    np.testing.assert_allclose(
      quantiles(ours[:, i]), quantiles([box[name] for box in drawn]), atol=3
    )


def test_boxes_are_the_same_on_host_and_device():
  crop = augment.RandomResizedCrop(8, flip=0.3)
  uniform = np.random.default_rng(0).random((500, *crop.draws), np.float32)
  host, device = (
    crop.draw(uniform, (256, 256)),
    crop.draw(jnp.array(uniform), (256, 256)),
  )
  assert isinstance(host[0], np.ndarray) and isinstance(device[0], jax.Array)
  for ours, theirs in zip(host, device, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert 0.2 < np.mean(host[1]) < 0.4


def test_shift_moves_by_up_to_a_share_and_reflects():
  images = np.tile(noise(1, 8, 16, 1), (300, 1, 1, 1))
  padded = np.pad(images[0], ((1, 1), (2, 2), (0, 0)), 'reflect')
  windows = {
    padded[y : y + 8, x : x + 16].tobytes(): (y, x) for y in range(3) for x in range(5)
  }
  moved = np.asarray(augment.shift(0.125)(KEY, images))
  places = [windows[image.tobytes()] for image in moved]  # KeyError: another move
  assert set(places) == set(windows.values())


def erased(images, value):
  """Bounds of the area that is all value: top, left, height, width."""
  boxes = []
  for mask in np.all(np.asarray(images) == np.float32(value), -1):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0, 0, 0, 0)
    if len(rows):
      box = rows[0], columns[0], len(rows), len(columns)
      assert rows[-1] - rows[0] + 1 == box[2] and mask.sum() == box[2] * box[3]
    boxes.append(box)
  return np.array(boxes)


@pytest.mark.torch
def test_random_erasing_is_distributed_as_torchvisions():
  images, paint = np.tile(noise(1, 32, 48, 3), (1000, 1, 1, 1)), (0.1, 0.2, 0.3)
  ours = jax.jit(augment.random_erasing(0.6, value=paint))(KEY, images)
  vision.torch().manual_seed(0)
  theirs = vision.transforms().RandomErasing(0.6, value=list(paint))
  theirs = np.stack(
    [vision.from_torch(theirs(vision.to_torch(image))) for image in images]
  )
  boxes = [erased(changed, paint) for changed in (ours, theirs)]
  for side in boxes:
    assert 0.55 < np.mean(side[:, 2] > 0) < 0.65
  ours, theirs = (side[side[:, 2] > 0] for side in boxes)
  for i in range(4):
    np.testing.assert_allclose(quantiles(ours[:, i]), quantiles(theirs[:, i]), atol=3)


def test_random_erasing_leaves_the_rest_and_paints_each_channel():
  images, paint = noise(200, 20, 30, 3), (0.1, 0.2, 0.3)
  erase = augment.random_erasing(0.5, (0.1, 0.2), (0.5, 2.0), paint)
  after = jax.jit(erase)(KEY, images)
  boxes = erased(after, paint)
  for image, changed, (y, x, tall, wide) in zip(images, after, boxes, strict=True):
    image[y : y + tall, x : x + wide] = paint
    np.testing.assert_array_equal(changed, image)
  tall, wide = boxes[boxes[:, 2] > 0, 2:].T
  assert 80 < len(tall) < 120
  share = tall * wide / 600
  assert 0.08 < share.min() and share.max() < 0.22


def test_cutout_paints_a_square_around_any_pixel():
  after = augment.cutout(0.5, 0.25)(KEY, np.ones((2000, 8, 12, 1), np.float32))
  top, left, tall, wide = erased(after, 0.25).T
  whole = (tall == 4) & (wide == 4)
  # The centre is 2 pixels or more from the lower borders, 1 or more from the upper.
  assert abs(whole.mean() - 5 / 8 * 9 / 12) < 0.04
  assert set(top[whole]) == set(range(5)) and set(left[whole]) == set(range(9))
  assert tall.min() == wide.min() == 2  # centred on the first pixel


def mixed(mix, key, count=16):
  """Images, mixed images, the share that stayed, and the partner of each."""
  images = noise(count, 12, 16, 3)
  after, labels = jax.jit(mix)(key, images, np.arange(count))
  assert labels.dtype == jnp.float32
  np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
  labels = np.array(labels)
  own = np.diag(labels).copy()
  share = own[np.abs(own - 1) > 1e-6][0]  # an image may be its own partner
  labels -= share * np.eye(count, dtype=np.float32)
  return images, np.asarray(after), share, labels.argmax(1)


@pytest.mark.parametrize('seed', range(3))
def test_mixup_blends_images_as_labels(seed):
  images, after, share, partner = mixed(MIXES['mixup'], jax.random.key(seed))
  assert set(partner) == set(range(16))
  expected = share * images + (1 - share) * images[partner]
  np.testing.assert_allclose(after, expected, atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_cutmix_pastes_one_box_and_counts_its_pixels(seed):
  images, after, share, partner = mixed(MIXES['cutmix'], jax.random.key(seed))
  pasted = np.all(after == images[partner], -1)
  kept = np.all(after == images, -1)
  assert (pasted | kept).all()
  box = pasted[partner != np.arange(16)]
  assert (box == box[0]).all()
  rows, columns = box[0].any(1), box[0].any(0)
  np.testing.assert_array_equal(box[0], rows[:, None] & columns)
  np.testing.assert_allclose(share, 1 - box[0].mean(), atol=1e-6)


def swapped_share(mix):
  """In 4,000 batches of a black and a white image, how white the black one becomes."""
  images = jnp.zeros((2, 64, 64, 1)).at[1].set(1)

  def lightness(key):
    mixed, _ = mix(key, images, jnp.array([0, 0]))
    return jnp.mean(mixed[0])

  light = np.asarray(jax.jit(jax.vmap(lightness))(jax.random.split(KEY, 4000)))
  swapped = light[light != 0]
  assert abs(len(swapped) / 4000 - 0.5) < 0.03  # else each was its own partner
  return swapped


@pytest.mark.parametrize('alpha', [0.4, 1.0])
def test_mixups_shares_are_drawn_from_beta(alpha):
  share = swapped_share(augment.mixup(alpha, 1))
  assert abs(share.mean() - 0.5) < 0.03
  assert abs(share.var() - 0.25 / (2 * alpha + 1)) < 0.01


@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
@pytest.mark.parametrize('alpha', [0.0, -0.2])
def test_a_mix_without_a_distribution_is_refused(name, alpha):
  with pytest.raises(InputError, match=rf'{name} draws from Beta\({alpha}, .*above 0'):
    getattr(augment, name)(alpha, 16)
  with pytest.raises(InputError, match=name):
    augment.mixup_or_cutmix(16, **{f'{name}_alpha': alpha})


def test_cutmixs_boxes_have_the_expected_area():
  share = swapped_share(augment.cutmix(1.0, 1))
  # The area is uniform; of a side s, s - s^2 / 4 is expected to lie inside, and
  # E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48.
  assert abs(share.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.02


def test_mixes_take_soft_labels():
  images = noise(16, 12, 16, 3)
  for name in ('mixup', 'cutmix'):
    mix = jax.jit(MIXES[name])
    hard = mix(KEY, images, np.arange(16))
    soft = mix(KEY, images, np.eye(16, dtype=np.float32))
    jax.tree.map(np.testing.assert_array_equal, hard, soft)


def test_mixup_or_cutmix_chooses_by_batch():
  for prob, name in [(0.0, 'mixup'), (1.0, 'cutmix')]:
    mix = augment.mixup_or_cutmix(16, prob, mixup_alpha=1.0)
    _, key = jax.random.split(KEY)
    batch = noise(16, 12, 16, 3), np.arange(16)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      jax.jit(mix)(KEY, *batch),
      jax.jit(MIXES[name])(key, *batch),
    )
