"""Batch norm, layer norm and GELU that keep no more than their input for the gradients.

Autodiff of flax's remembers several arrays of an input's size and reads them all. The
gradients here are the textbook's, of the input and of statistics a channel or a row.
What is narrower than float32 is computed in float32, as in flax.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models import products


class BatchNorm(nn.BatchNorm):
  """flax's over the last axis, with scale and bias; `mask` and `axis_name` are not."""

  @nn.compact
  def __call__(self, x, use_running_average=None):
    given = self.use_running_average, use_running_average
    if nn.merge_param('use_running_average', *given):
      return super().__call__(x, use_running_average)
    width = x.shape[-1:]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, width)
    var = self.variable('batch_stats', 'var', jnp.ones, width)
    y, now = _batch_norm(x, *_scale_and_bias(self, width), self.epsilon)
    if not self.is_initializing():
      for moving, value in zip((mean, var), now, strict=True):
        moving.value = self.momentum * moving.value + (1 - self.momentum) * value
    return y.astype(self.dtype or x.dtype)


class LayerNorm(nn.LayerNorm):
  """flax's over the last axis, with scale and bias; the variance takes two passes."""

  @nn.compact
  def __call__(self, x):
    y = _layer_norm(x, *_scale_and_bias(self, x.shape[-1:]), self.epsilon)
    return y.astype(self.dtype or x.dtype)


def _scale_and_bias(norm, width):
  scale = norm.param('scale', norm.scale_init, width, norm.param_dtype)
  return scale, norm.param('bias', norm.bias_init, width, norm.param_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x, scale, bias, epsilon):
  """Returns the normalised and (mean, variance), through which no gradient goes."""
  return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
  axes, wide = _leading(x), _wide(x)
  mean = wide.mean(axes)
  # In one pass with the mean; rounding may leave less than zero.
  var = jnp.maximum((wide * wide).mean(axes) - mean * mean, 0)
  inverse = jax.lax.rsqrt(var + epsilon)
  # A channel's numbers first, here and below: with differences from its mean, of which
  # there are as many as of x, a CPU would write these down and keep them.
  factor = inverse * scale.astype(inverse.dtype)
  y = wide * _row(factor, x) + _row(bias.astype(mean.dtype) - mean * factor, x)
  return (y.astype(x.dtype), (mean, var)), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, residuals, grads):
  del epsilon
  x, scale, mean, inverse = residuals
  axes, grad, share = _leading(x), _wide(grads[0]), x.shape[-1] / x.size
  of_bias = grad.sum(axes)
  of_scale = ((grad * _wide(x)).sum(axes) - mean * of_bias) * inverse
  factor = inverse * scale.astype(inverse.dtype)
  slope = factor * inverse * of_scale * share
  level = factor * of_bias * share - mean * slope
  of_x = grad * _row(factor, x) - (_wide(x) * _row(slope, x) + _row(level, x))
  return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, epsilon):
  return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
  wide = _wide(x)
  mean = wide.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(wide.var(-1, keepdims=True) + epsilon)
  y = (wide - mean) * inverse * _row(scale, x) + _row(bias, x)
  return y.astype(x.dtype), (x, scale, mean, inverse)


def _layer_norm_backward(epsilon, residuals, grad):
  del epsilon
  x, scale, mean, inverse = residuals
  # Without the barrier XLA would compute the statistics anew, twice.
  mean, inverse = jax.lax.optimization_barrier((mean, inverse))
  axes, grad = _leading(x), _wide(grad)
  normal = (_wide(x) - mean) * inverse
  scaled = grad * _row(scale, x)
  along = normal * (scaled * normal).mean(-1, keepdims=True)
  of_x = (scaled - scaled.mean(-1, keepdims=True) - along) * inverse
  of_scale, of_bias = (grad * normal).sum(axes), grad.sum(axes)
  return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """The exact one, x times the normal distribution function of x (Hendrycks, 2016)."""
  wide = _wide(x)
  return (0.5 * wide * (1 + jax.lax.erf(math.sqrt(0.5) * wide))).astype(x.dtype)


def _gelu_backward(x, grad):
  # Without the barrier XLA would keep the distribution function beside x.
  wide = _wide(jax.lax.optimization_barrier(x))
  density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
  slope = 0.5 * (1 + jax.lax.erf(math.sqrt(0.5) * wide)) + wide * density
  return ((_wide(grad) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _leading(x):
  return tuple(range(x.ndim - 1))


def _row(values, x):
  """(C,) with as many axes as x, and its width."""
  return jnp.expand_dims(values, _leading(x)).astype(_wide(x).dtype)


def _wide(x):
  return x.astype(products.wide(x.dtype))
