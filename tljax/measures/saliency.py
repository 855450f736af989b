"""Where in an image the evidence for a class is."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def grad_cam(
  predict: Callable[[jax.Array], jax.Array],
  images: jax.Array,
  stage: tuple[str, ...],
  labels: jax.Array,
) -> jax.Array:
  """Maps of the evidence for a class (Selvaraju et al., 2017, equations 1 and 2).

  Args:
    predict: images to logits (N, K), by a flax module that has the stage.
    images: (N, H, W, C) float32 in [0, 1].
    stage: path of the module whose output (N, h, w, D) is weighed, such as
      ('backbone', 'stage4').
    labels: (N,) integer: the class whose logit is explained, of each image.

  Returns:
    (N, h, w) float32, 0 and more; the largest is not scaled to 1.

  Raises:
    ValueError: no module is at that path, or its output is no map.
  """
  seen = []

  def run(delta):
    seen.clear()

    def intercept(call, args, kwargs, context):
      output = call(*args, **kwargs)
      if context.module.path != stage or context.method_name != '__call__':
        return output
      seen.append(output)
      return output if delta is None else output + delta

    with nn.intercept_methods(intercept):
      logits = predict(images)
    # Images do not mix in evaluation, so the gradient of the sum is each one's own.
    score = jnp.sum(logits[jnp.arange(len(labels)), labels])
    return score, tuple(seen)

  shapes = jax.eval_shape(lambda: run(None)[1])
  if len(shapes) != 1 or shapes[0].ndim != 4:
    raise ValueError(f'{"/".join(stage)} is not a module whose output is one map')
  delta = jnp.zeros(shapes[0].shape, shapes[0].dtype)
  gradient, (features,) = jax.grad(run, has_aux=True)(delta)
  weights = jnp.mean(gradient.astype(jnp.float32), (1, 2), keepdims=True)
  return nn.relu(jnp.sum(weights * features.astype(jnp.float32), -1))
