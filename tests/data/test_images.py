"""Decoding, and transforms that are the published ones pixel by pixel."""

import io
import struct
import unittest.mock

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from tests import oracles
from tljax.data import images
from tljax.data.augment import RandomResizedCrop, resized_crop
from tljax.data.images import Images, Transform
from tljax.data.source import Source
from tljax.errors import InputError

SIZES = [(40, 23), (23, 40), (33, 33), (19, 90)]


def photograph(size, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
  return Image.fromarray(pixels)


def source_of(*items):
  return Source(list(items), np.zeros(len(items), np.int32), ('a',), 'here')


@pytest.mark.parametrize(
  'mode, suffix',
  [
    ('RGB', 'jpg'),
    ('L', 'jpeg'),
    ('CMYK', 'jpg'),
    ('RGBA', 'png'),
    ('P', 'png'),
    ('LA', 'png'),
    ('1', 'png'),
    ('RGB', 'webp'),
    ('L', 'tif'),
  ],
)
def test_any_mode_and_size(tmp_path, paint, mode, suffix):
  path = paint(tmp_path / f'x.{suffix}', (31, 12), mode)
  image = images.read(path, 8, 9)
  assert image.shape == (8, 8, 3) and image.dtype == np.uint8
  with Image.open(path) as file:
    wanted = Transform(8, 9)(file.convert('RGB'))
  np.testing.assert_array_equal(image, wanted)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
  pixels = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
  Image.fromarray(pixels).save(tmp_path / 'x.png')
  grey = images.read(tmp_path / 'x.png', 2)[..., 0]
  np.testing.assert_array_equal(grey, [[0, 100], [200, 255]])


@pytest.mark.parametrize(
  ('pixels', 'named'),
  [
    (np.float32([[0.0, 0.5, 1.0]]), 'floats; save it with 8 or 16 bits'),
    (np.int32([[0, 65536]]), 'from 0 to 65536; save it with 16 bits'),
    (np.int32([[-1, 255]]), 'from -1 to 255; save it with 16 bits'),
  ],
)
def test_pixels_of_unknown_range(tmp_path, pixels, named):
  Image.fromarray(pixels).save(tmp_path / 'x.tif')
  with pytest.raises(InputError, match=f'x.tif: cannot be read .*{named}'):
    images.read(tmp_path / 'x.tif', 2)


def test_exif_rotation_is_applied(tmp_path):
  image = Image.new('RGB', (10, 20))
  image.paste((255, 255, 255), (0, 0, 10, 10))  # the upper half
  exif = Image.Exif()
  exif[0x0112] = 3  # rotated by 180 degrees
  image.save(tmp_path / 'x.png', exif=exif)
  pixels = images.read(tmp_path / 'x.png', 10, 10)
  assert pixels[0].max() < 128 < pixels[-1].min()


def exif(*tags):
  """EXIF of the tags (number, type, count, value), as they are."""
  entries = b''.join(struct.pack('<HHII', *tag) for tag in tags)
  head = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', len(tags))
  return head + entries + bytes(4)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientations_are_pillows(orientation):
  buffer = io.BytesIO()
  photograph((9, 5)).save(buffer, 'png', exif=exif((0x112, 3, 1, orientation)))
  wanted = ImageOps.exif_transpose(Image.open(buffer)).resize((8, 8), 2)
  ours = images.read_example(source_of(buffer.getvalue()), 0, Transform(8))
  np.testing.assert_array_equal(ours, np.asarray(wanted))


@pytest.mark.parametrize('bad', [(0x128, 7, 1, 5), (0x11A, 7, 1, 5), (0x10E, 12, 1, 0)])
def test_bad_tags_beside_the_orientation(bad):
  image = Image.new('RGB', (10, 20))
  image.paste((255, 255, 255), (0, 0, 10, 10))  # the upper half
  buffer = io.BytesIO()
  image.save(buffer, 'jpeg', exif=exif((0x112, 3, 1, 6), bad))
  pixels = images.read_example(source_of(buffer.getvalue()), 0, Transform(10))
  assert pixels[:, 0].max() < 128 < pixels[:, -1].min()  # turned to the right


def test_whatever_pillow_says_against_a_file_names_it(monkeypatch, paint, tmp_path):
  path = paint(tmp_path / 'x.png')

  def read(error):
    monkeypatch.setattr(images, 'to_rgb', unittest.mock.Mock(side_effect=error))
    images.read(path, 4)

  for error in (struct.error('short'), IndexError('short'), AttributeError('short')):
    with pytest.raises(InputError, match='x.png: cannot be read as an image .short'):
      read(error)
  with pytest.raises(MemoryError):
    read(MemoryError)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
  first, second = (Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue'))
  first.save(tmp_path / 'x.webp', save_all=True, append_images=[second], lossless=True)
  np.testing.assert_array_equal(images.read(tmp_path / 'x.webp', 8)[0, 0], [255, 0, 0])


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('resize', [16, 17, 19])
def test_the_shorter_side_is_resized_and_the_centre_cropped(size, resize):
  image = photograph(size)
  width, height = size
  other = int(resize * max(size) / min(size))
  shape = (resize, other) if width <= height else (other, resize)
  resized = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
  top, left = round((resized.shape[0] - 14) / 2), round((resized.shape[1] - 14) / 2)
  wanted = resized[top : top + 14, left : left + 14]
  np.testing.assert_array_equal(Transform(14, resize)(image), wanted)


@pytest.mark.torch
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'nearest'])
def test_it_is_torchvisions_pixel_by_pixel(size, interpolation):
  transforms = oracles.torch_hub('torchvision').transforms
  mode = transforms.InterpolationMode(interpolation)
  for resize in (15, 16, 18):
    theirs = transforms.Compose(
      [transforms.Resize(resize, mode), transforms.CenterCrop(14)]
    )
    image = photograph(size)
    ours = Transform(14, resize, interpolation)(image)
    np.testing.assert_array_equal(ours, np.asarray(theirs(image)))


@pytest.mark.torch
@pytest.mark.parametrize(('resize', 'crop_pct'), [(256, 0.875), (235, 0.95)])
def test_it_is_timms_pixel_by_pixel(resize, crop_pct):
  timm = oracles.torch_hub('timm')
  theirs = timm.data.create_transform(
    (3, 224, 224), interpolation='bicubic', crop_pct=crop_pct, mean=0.0, std=1.0
  )
  image = photograph((300, 271))
  ours = Transform(224, resize, 'bicubic')(image)
  pixels = np.round(theirs(image).numpy().transpose(1, 2, 0) * 255)
  np.testing.assert_array_equal(ours, pixels)


@pytest.mark.keras
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic'])
def test_without_a_resize_it_is_keras_pixel_by_pixel(tmp_path, interpolation):
  utils = oracles.keras().utils
  photograph((31, 22)).save(tmp_path / 'x.png')
  theirs = utils.load_img(
    tmp_path / 'x.png', target_size=(14, 14), interpolation=interpolation
  )
  with Image.open(tmp_path / 'x.png') as image:
    ours = Transform(14, None, interpolation)(image)
  np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize(
  ('size', 'pixels'), [((64, 64), (8, 16, 56, 48)), ((84, 64), (18, 16, 66, 48))]
)
def test_a_box_is_of_the_central_square(size, pixels):
  image = photograph(size)
  box = (0.25, 0.125, 0.5, 0.75)
  wanted = image.resize((24, 24), Image.Resampling.BICUBIC, pixels)
  transform = Transform(24, 32, 'bicubic')
  np.testing.assert_array_equal(transform(image, box), wanted)
  whole = Transform(24, 24, 'bicubic')(image)
  np.testing.assert_array_equal(transform(image, (0.0, 0.0, 1.0, 1.0)), whole)
  # Without `resize`, all of the image is resized.
  wanted = image.resize((24, 24), Image.Resampling.BILINEAR, (0, 0, size[0], 32))
  np.testing.assert_array_equal(Transform(24)(image, (0.0, 0.0, 0.5, 1.0)), wanted)


def test_crops_on_the_host_are_those_of_the_device():
  smooth = Image.fromarray(np.uint8(255 * oracles.images((480, 600), 1)[0]))
  buffer = io.BytesIO()
  smooth.save(buffer, 'png')
  lazy = Images(source_of(buffer.getvalue()), Transform(480, 480))
  crop = RandomResizedCrop(40, scale=(0.05, 0.3), flip=0.5)
  uniform = np.random.default_rng(0).random((20, *crop.draws), np.float32)
  host = lazy.crop(np.zeros(20, int), crop, uniform)
  square = np.asarray(lazy[0])
  for image, box, mirror in zip(host, *crop.draw(uniform, (480, 480)), strict=True):
    device = 255 * resized_crop(square, box, mirror, (40, 40))
    # Boxes are rounded to pixels there, and what is resized twice is blurred.
    assert np.abs(image - np.asarray(device)).mean() < 2
  assert len(np.unique(host.reshape(20, -1), axis=0)) == 20


def test_a_large_jpeg_is_decoded_at_a_reduced_scale_and_looks_the_same(tmp_path):
  smooth = photograph((40, 30)).resize((1600, 1200), Image.Resampling.BICUBIC)
  smooth.save(tmp_path / 'x.jpg', quality=95)
  smooth.save(tmp_path / 'x.png')
  drawn = images.read(tmp_path / 'x.jpg', 100, 112).astype(int)
  whole = images.read(tmp_path / 'x.png', 100, 112).astype(int)
  assert np.abs(drawn - whole).mean() < 1.5  # levels of 255
  decoded = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(images, 'to_rgb', lambda image: decoded.append(image.size) or image)
    images.read(tmp_path / 'x.jpg', 100, 112)
    images.read(tmp_path / 'x.jpg', 100, 600)
  assert decoded == [(400, 300), (1600, 1200)]  # at least twice what it is resized to


@pytest.mark.parametrize('item', [b'', b'no image', b'\xff\xd8\xff' + bytes(40)])
def test_bytes_that_are_no_image_are_named_by_their_row(item):
  with pytest.raises(InputError, match='^here, row 0: cannot be read as an image') as e:
    images.read_example(source_of(item), 0, Transform(4))
  assert '\n' not in str(e.value) and '0x' not in str(e.value)


def _in_iptc(content):
  """An IPTC record of a JPEG's kind, whose image is opened by its content."""

  def field(*tag, data):
    return bytes([0x1C, *tag]) + len(data).to_bytes(2) + data

  size = (9).to_bytes(2)
  header = (
    field(3, 60, data=b'\1\1') + field(3, 20, data=size) + field(3, 30, data=size)
  )
  return header + field(3, 120, data=b'\5') + field(8, 10, data=content[:30_000])


def test_postscript_is_not_run(monkeypatch, tmp_path):
  photograph((9, 9)).save(tmp_path / 'x.eps')
  path = (tmp_path / 'x.eps').rename(tmp_path / 'x.jpg')
  ghostscript = unittest.mock.Mock()
  monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', ghostscript)
  for item in (path, path.read_bytes(), _in_iptc(path.read_bytes())):
    with pytest.raises(InputError, match='cannot identify image file'):
      images.read_example(source_of(item), 0, Transform(4))
  ghostscript.assert_not_called()


def test_a_decompression_bomb_is_refused(tmp_path):
  """20,000 x 20,000 pixels of nothing, in 50 kB."""
  path = tmp_path / 'bomb.png'
  Image.new('1', (20_000, 20_000)).save(path)
  assert path.stat().st_size < 100_000
  for check in (
    images.check_header,
    lambda s, i: images.read_example(s, i, Transform(4)),
  ):
    with pytest.raises(InputError, match='bomb.png: cannot .*decompression bomb'):
      check(source_of(path), 0)


def test_a_truncated_file_has_a_good_header(tmp_path, paint):
  path = paint(tmp_path / 'x.png', (64, 64))
  path.write_bytes(path.read_bytes()[:-500])
  images.check_header(source_of(path), 0)
  with pytest.raises(InputError, match='x.png: cannot be read'):
    images.read_example(source_of(path), 0, Transform(4))


@pytest.mark.parametrize('count', [0, 5, 1024, 2500])
def test_each_keeps_the_order(count):
  assert list(images.each(lambda i: -i, count)) == [-i for i in range(count)]


@pytest.fixture
def lazy(tmp_path, paint):
  files = [paint(tmp_path / f'{i}.png', seed=i) for i in range(7)]
  buffer = io.BytesIO(files[3].read_bytes())
  files[3] = buffer.getvalue()
  return Images(source_of(*files), Transform(5, 6))


@pytest.mark.parametrize(
  'index',
  [3, np.int64(2), slice(2, 5), slice(None), np.array([6, 0, 0]), np.array([], int)],
)
def test_images_read_as_an_array(lazy, index):
  whole = np.stack([lazy[i] for i in range(7)])
  assert lazy.shape == whole.shape and lazy.dtype == whole.dtype and len(lazy) == 7
  np.testing.assert_array_equal(lazy[index], whole[index])
  taken = lazy.take(np.array([5, 1, 2]))
  np.testing.assert_array_equal(taken[:], whole[[5, 1, 2]])
  np.testing.assert_array_equal(taken.take(np.array([2, 0]))[:], whole[[2, 5]])


def test_the_fingerprint_tells_contents_and_transforms_apart(lazy):
  prints = {
    lazy.fingerprint(),
    lazy.take(np.arange(6)).fingerprint(),
    lazy.take(np.arange(7)[::-1]).fingerprint(),
    Images(lazy.source, Transform(5, 7)).fingerprint(),
  }
  assert len(prints) == 4
  assert Images(lazy.source, Transform(5, 6)).fingerprint() in prints


@pytest.mark.parametrize(
  'wrong', [{'interpolation': 'magic'}, {'size': 9}, {'size': 0}]
)
def test_bad_transforms(wrong):
  with pytest.raises(InputError):
    Transform(**{'size': 4, 'resize': 8, **wrong})
