"""A frozen backbone in int8: a quarter of the memory, for extracting features."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models import convolution
from tljax.models.base import Classifier


class _ByXLA(Classifier):
  """A classifier of the convolutions that qwix knows."""

  def __call__(self, *args, **kwargs):
    with convolution.by_xla():
      return super().__call__(*args, **kwargs)

  def embed(self, *args, **kwargs):
    with convolution.by_xla():
      return super().embed(*args, **kwargs)


def quantize(
  model: Classifier, variables: dict[str, Any]
) -> tuple[Classifier, dict[str, Any]]:
  """Returns the model and its variables with an int8 backbone; the head stays float32.

  Kernels of convolutions and dense layers are scaled by channel to their largest
  value, their inputs by that of the batch as they come; sums are int32 (Jacob et al.,
  2018). It is for evaluation, such as `extraction.features.extract`: int8 kernels have
  no gradient.

  Args:
    model: of a published architecture.
    variables: its float variables.

  Raises:
    InputError: qwix, of the extra `int8`, is not installed.
  """
  try:
    import qwix
  except ImportError as error:
    raise InputError("int8 wants qwix: pip install 'tljax[int8]'") from error
  rule = {'module_path': 'backbone/.*', 'weight_qtype': 'int8', 'act_qtype': 'int8'}
  fields = [
    f.name for f in dataclasses.fields(model) if f.name not in ('parent', 'name')
  ]
  model = _ByXLA(**{name: getattr(model, name) for name in fields})
  provider = qwix.PtqProvider([qwix.QuantizationRule(**rule)])
  quantized = qwix.quantize_model(model, provider, methods=('__call__', 'embed'))
  size = model.spec.input_size
  channels = len(model.spec.mean)
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  wanted = jax.eval_shape(quantized.init, jax.random.key(0), images)
  params = jax.tree.map(jnp.asarray, variables['params'])
  return quantized, {
    **variables,
    'params': qwix.quantize_params(params, wanted['params']),
  }
