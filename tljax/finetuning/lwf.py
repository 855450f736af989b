"""Learning without forgetting (Li & Hoiem, 2017)."""

import jax
import optax

from tljax.finetuning.distillation import distillation
from tljax.finetuning.regularized import regularize
from tljax.finetuning.source_head import SourceHead, source_head_of
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  temperature: float = 2.0,
  source_head: SourceHead | None = None,
) -> Method:
  """Holds the source's classifier to what it said of the target's images at first.

  All parameters descend the new task's cross-entropy + strength x that of the old
  outputs at a temperature (equation 2), less its part that no parameter moves. The
  paper trains the new head alone beforehand, as `lp_ft` does.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters, the part 'source_head' too.
    strength: lambda_o, a number or a schedule of the step.
    temperature: T of both softmaxes.
    source_head: the pretrained classifier, `(module, params)`. The default, for trying
      out, is one like the model's head, drawn anew.
  """
  init_params, source_logits = source_head_of(model, source_head)

  def penalty(params, outputs, start, batch):
    before = model.apply(start, batch['image'], train=False)
    recorded = jax.lax.stop_gradient(source_logits(start['params'], before))
    divergence = distillation(source_logits(params, outputs), recorded, temperature)
    return divergence / temperature**2

  return regularize(
    model,
    optimizer,
    penalty,
    strength=strength,
    remember=lambda state: state.variables,
    init_params=init_params,
  )
