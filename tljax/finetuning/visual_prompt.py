"""Visual prompts: a frozen network's input is learned, of transformers some tokens
(Jia et al., 2022), of other networks a frame (Bahng et al., 2022).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.finetuning import labels, plain
from tljax.finetuning.wrapped import WrappedModel
from tljax.losses import Loss
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  tokens: int = 10,
  deep: bool = False,
  frame: float = 30 / 224,
  loss: Loss | None = None,
) -> Method:
  """Trains the head and a prompt at the input of the frozen backbone.

  Of a vision transformer these are tokens beside those of the patches, which the first
  block takes (VPT-shallow), or each block takes anew (VPT-deep). Drawn at random, they
  change what it answers from the start. Of any other network it is a frame that is
  added to the image's edges; it starts as zero.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves the prompt and the head.
    tokens: P, for a transformer.
    deep: each block has tokens of its own.
    frame: width, as a share of the image's height; the default is Bahng et al.'s.
    loss: see `plain.method`.
  """
  prompted = PromptedModel(model, tokens, deep, frame)
  return plain.method(*labels.freeze(prompted, optimizer, 'backbone/.*'), loss=loss)


@dataclasses.dataclass(frozen=True)
class PromptedModel(WrappedModel):
  """A model with a prompt, whose parameters are in the part 'prompt'.

  It holds {'tokens': (1 or blocks, P, D)}, or strips of the frame {'top', 'bottom':
  (width, W, C), 'left', 'right': (H - 2 width, width, C)}.
  """

  tokens: int
  deep: bool
  frame: float

  def init(self, key: jax.Array, images: jax.Array, *args, **kwargs):
    """As the model's, with the prompt's part.

    Raises:
      InputError: the images are too small for the frame, or it is not a transformer's
        prompt that is to be deep.
    """
    variables = dict(super().init(key, images, *args, **kwargs))
    outputs = jax.eval_shape(self.model.apply, variables, images)
    if 'embed' in outputs:
      width = outputs['embed'].shape[-1]
      shape = (len(self._blocks) if self.deep else 1, self.tokens, width)
      kernel = variables['params']['backbone']['embed']['patch']['kernel']
      limit = (6 / (kernel[..., 0].size + width)) ** 0.5  # as in the authors' code
      draw = jax.random.uniform(jax.random.fold_in(key, 1), shape)
      prompt = {'tokens': limit * (2 * draw - 1)}
    elif self.deep:
      raise InputError('a deep prompt is for vision transformers; leave deep out')
    else:
      prompt = _strips(images.shape[1:], self.frame)
    variables['params'] = {**variables['params'], 'prompt': prompt}
    return variables

  @property
  def _blocks(self):
    return [stage for stage in self.spec.stages if stage.startswith('block')]

  def apply(self, variables, images, *args, **kwargs):
    """As the model's, with the prompt; transformers' endpoints keep its tokens but for
    'norm' and what is made of it.
    """
    params = dict(variables['params'])
    prompt = params.pop('prompt')
    variables = {**variables, 'params': params}
    if 'tokens' not in prompt:
      framed = images + _frame(prompt).astype(images.dtype)[None]
      return super().apply(variables, framed, *args, **kwargs)
    with nn.intercept_methods(_insert(prompt['tokens'], self._blocks)):
      return super().apply(variables, images, *args, **kwargs)


def _insert(prompts, blocks):
  """A linen interceptor that appends tokens after the embedding, or before each block
  that has some of its own, and takes them away after the last norm.
  """
  count = prompts.shape[1]

  def append(x, index):
    shape = (len(x), *prompts.shape[1:])
    return jnp.concatenate(
      [x, jnp.broadcast_to(prompts[index][None].astype(x.dtype), shape)], 1
    )

  def intercept(next_call, args, kwargs, context):
    path = context.module.path
    if context.method_name != '__call__' or path[:1] != ('backbone',) or len(path) != 2:
      return next_call(*args, **kwargs)
    if len(prompts) > 1 and path[1] in blocks[1:]:
      x, *args = args
      args = append(x[:, :-count], blocks.index(path[1])), *args
    outputs = next_call(*args, **kwargs)
    if path[1] == 'embed':
      return append(outputs, 0)
    return outputs[:, :-count] if path[1] == 'norm' else outputs

  return intercept


def _strips(shape, share):
  height, width, channels = shape
  thick = round(share * height)
  if thick < 1 or 2 * thick >= min(height, width):
    raise InputError(
      f'frame={share} is {thick} pixels of images of {height}x{width}; choose another'
    )
  long, short = (thick, width, channels), (height - 2 * thick, thick, channels)
  strips = {'top': long, 'bottom': long, 'left': short, 'right': short}
  return {name: jnp.zeros(shape) for name, shape in strips.items()}


def _frame(strips):
  """The strips as an image (H, W, C), zero within."""
  (rows, thick, channels), width = strips['left'].shape, strips['top'].shape[1]
  hole = jnp.zeros((rows, width - 2 * thick, channels))
  middle = jnp.concatenate([strips['left'], hole, strips['right']], 1)
  return jnp.concatenate([strips['top'], middle, strips['bottom']], 0)
