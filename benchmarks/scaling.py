"""What a pod would give: operations, bytes and seconds of a step, from the shapes.

  python -m benchmarks.scaling > benchmarks/scaling.md

A plan on paper: nothing here was run on such machines. The chips' figures are their
makers'; the share of the peak that a step reaches is an assumption, and said.
"""

import dataclasses
from collections.abc import Iterator

MODEL_BYTES = 4  # of a parameter: float32
STATE_COPIES = 3  # parameters, and Adam's two moments


@dataclasses.dataclass(frozen=True)
class Network:
  """A network, an image of 224 pixels.

  Attributes:
    parameters: how many.
    macs: multiply-adds of a forward pass.
    activations: floats that the backward pass wants, as an upper bound: every output of
      a layer.
  """

  name: str
  parameters: float
  macs: float
  activations: float


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Chips, all alike.

  Attributes:
    peak: operations a second of a chip, bfloat16.
    memory: bytes of a chip.
    link: bytes a second that leave a chip in a ring over all of them.
    latency: seconds of a hop.
    share: of the peak that a step reaches; an assumption.
  """

  name: str
  chips: int
  peak: float
  memory: float
  link: float
  latency: float
  share: float


NETWORKS = (
  Network('ViT-B/16', 86.6e6, 17.6e9, 28e6),
  Network('ResNet-50', 25.6e6, 4.1e9, 22e6),
)
CLUSTERS = (
  # 1,600 Gbit/s of links a chip; counted is one axis of the torus, which is half.
  Cluster('v5e-256', 256, 197e12, 16e9, 100e9, 1e-6, 0.4),
  # A ring through each of a node's eight 400 Gbit/s adapters: together they, and not
  # NVLink's 450 GB/s, set the pace.
  Cluster('64 H100s', 64, 989e12, 80e9, 400e9, 5e-6, 0.35),
)
BATCHES = (8, 32, 128)  # images a chip


def operations(network: Network, images: int) -> float:
  """Of a step: forward, and twice that backward; a multiply-add is two."""
  return 3 * 2 * network.macs * images


def compute_seconds(network: Network, cluster: Cluster, images: int) -> float:
  """Of a step of `images` a chip."""
  return operations(network, images) / (cluster.peak * cluster.share)


def reduced_bytes(network: Network, chips: int) -> float:
  """That leave a chip as gradients are summed by a ring: 2 (n - 1) / n of them."""
  return 2 * (chips - 1) / chips * MODEL_BYTES * network.parameters


def sharded_bytes(network: Network, chips: int) -> float:
  """The same along 'fsdp': parameters gathered twice, gradients scattered once."""
  return 3 * (chips - 1) / chips * MODEL_BYTES * network.parameters


def seconds_of(count: float, cluster: Cluster) -> float:
  """To move so many bytes, and a ring's hops."""
  return count / cluster.link + 2 * (cluster.chips - 1) * cluster.latency


def efficiency(compute: float, communication: float) -> tuple[float, float]:
  """Share of the time that is computation, where none overlaps, and where it may.

  Gradients can be sent while those of earlier layers are computed: during the backward
  pass, two thirds of the step.
  """
  exposed = max(0.0, communication - 2 / 3 * compute)
  return compute / (compute + communication), compute / (compute + exposed)


def breaking_point(network: Network, cluster: Cluster) -> float:
  """Images a chip below which the backward pass no longer hides the sum."""
  seconds = seconds_of(reduced_bytes(network, cluster.chips), cluster)
  return seconds / (2 / 3 * compute_seconds(network, cluster, 1))


def memory(network: Network, images: int, share: int) -> float:
  """Bytes of a chip: its part of the state, gradients, activations in bfloat16."""
  state = STATE_COPIES * MODEL_BYTES * network.parameters / share
  return state + MODEL_BYTES * network.parameters + 2 * network.activations * images


def rows(network: Network, cluster: Cluster) -> Iterator[str]:
  """Rows of the table, one a batch size."""
  sent = seconds_of(reduced_bytes(network, cluster.chips), cluster)
  for images in BATCHES:
    compute = compute_seconds(network, cluster, images)
    low, high = efficiency(compute, sent)
    rate = images * cluster.chips * high / compute
    yield (
      f'| {network.name} | {cluster.name} | {images} | {images * cluster.chips:,} '
      f'| {operations(network, images) / 1e12:.2f} | {1e3 * compute:.2f} '
      f'| {reduced_bytes(network, cluster.chips) / 1e6:.0f} | {1e3 * sent:.2f} '
      f'| {low:.0%} to {high:.0%} | {rate:,.0f} '
      f'| {memory(network, images, 1) / 1e9:.1f} |'
    )


HEAD = """# Scaling, on paper

Written by `python -m benchmarks.scaling`, which has the formulas. Nothing here was run
on such machines: the peaks and links are the makers' figures, and the share of the peak
that a step reaches is an assumption.

Data parallel, bfloat16 products, float32 parameters, gradients and Adam. A step takes
6 x multiply-adds x images operations; the gradients' sum moves 2 (n - 1) / n x 4 bytes
x parameters out of each chip, by a ring. The lower efficiency is without overlap, the
higher where the backward pass, two thirds of a step, hides the sum; images/s is by the
higher.
"""
COLUMNS = (
  'network',
  'cluster',
  'images a chip',
  'batch',
  'TFLOP a chip',
  'compute, ms',
  'MB sent a chip',
  'sum, ms',
  'efficiency',
  'images/s',
  'GB a chip',
)


def report() -> Iterator[str]:
  """Lines of scaling.md."""
  yield HEAD
  yield f'| {" | ".join(COLUMNS)} |'
  yield '|---' * len(COLUMNS) + '|'
  for network in NETWORKS:
    for cluster in CLUSTERS:
      yield from rows(network, cluster)
  yield '\n## Where it breaks\n'
  for cluster in CLUSTERS:
    least = ' and '.join(
      f'{breaking_point(n, cluster):.1f} images a chip of {n.name}' for n in NETWORKS
    )
    yield (
      f'- {cluster.name}, {cluster.share:.0%} of {cluster.peak / 1e12:.0f} TFLOP/s and '
      f'{cluster.link / 1e9:.0f} GB/s assumed: the sum is hidden down to {least}.'
    )
  for network in NETWORKS:
    whole = STATE_COPIES * MODEL_BYTES * network.parameters
    ratio = sharded_bytes(network, 8) / reduced_bytes(network, 8)
    yield (
      f'- {network.name}: the state is {whole / 1e9:.2f} GB, with `--mesh fsdp=8` '
      f'{whole / 8 / 1e9:.2f} GB a chip, for {ratio:.1f} times the bytes sent. Neither '
      'network needs it.'
    )
  yield (
    '- Before the links, the batch breaks: 256 chips of 128 images are 32,768, past '
    'what a small set can use.'
  )
  wanted = 8 / compute_seconds(NETWORKS[1], CLUSTERS[0], 1)
  yield (
    f'- The input breaks before that: a host of 8 v5e chips would have to read '
    f'{wanted:,.0f} images/s of ResNet-50, and a core here decodes a few hundred (see '
    'README.md). Images that fit in memory are cropped on the device and want none.'
  )
  hops = 2 * 32 * CLUSTERS[0].latency  # there and back, along both axes of 16
  yield (
    "- Batch norms sum a layer's moments, kilobytes but each with its latency: the 53 "
    f'of ResNet-50, forward and backward, {1e3 * 2 * 53 * hops:.1f} ms on v5e-256 '
    'where none overlaps, which rules below 32 images a chip.'
  )


if __name__ == '__main__':
  print('\n'.join(report()))
