"""Co-Tuning: the source's classifier is tuned as well (You et al., 2020)."""

import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epy

from tljax import losses
from tljax.errors import InputError
from tljax.finetuning.regularized import regularize
from tljax.finetuning.source_head import SourceHead, source_head_of
from tljax.method import Method

with epy.lazy_imports():  # they are slow to import
  from scipy import optimize, special
  from sklearn import exceptions, linear_model

_PENALTIES = tuple(np.geomspace(1e4, 1e-4, 17))


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 2.3,
  source_head: SourceHead | None = None,
  relationship: jax.Array | None = None,
) -> Method:
  """Trains the source's classifier too, on the source classes that a label implies.

  Its labels are p(y_s | y_t) of the target's label y_t, so that no pretrained
  parameter is thrown away. Prediction is by the model's own head.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters, the part 'source_head' too.
    strength: of the source classifier's cross-entropy, a number or a schedule of the
      step. The paper chooses it by validation; the default is its code's.
    source_head: the pretrained classifier, `(module, params)`. The default, for trying
      out, is one like the model's head, drawn anew.
    relationship: (K_t, K_s) of `learn_relationship`; by default the source's classes
      are the target's.
  """
  init_params, source_logits = source_head_of(model, source_head)

  def penalty(params, outputs, memory, batch):
    del memory
    labels = losses.probabilities(batch['label'], outputs['logits'].shape[-1])
    if relationship is not None:
      labels = labels @ jnp.asarray(relationship, jnp.float32)
    logits = source_logits(params, outputs)
    if labels.shape != logits.shape:
      raise InputError(
        f'the source classifier has {logits.shape[-1]} classes, the relationship '
        f'{labels.shape[-1]}; learn it by learn_relationship'
      )
    return losses.cross_entropy(logits, labels)

  return regularize(
    model, optimizer, penalty, strength=strength, init_params=init_params
  )


def learn_relationship(
  logits: np.ndarray,
  labels: np.ndarray,
  validation_logits: np.ndarray,
  validation_labels: np.ndarray,
  penalties: Sequence[float] = _PENALTIES,
) -> np.ndarray:
  """Estimates p(y_s | y_t) by the paper's reverse approach.

  A logistic regression from the source's probabilities, calibrated on the validation
  split, gives p(y_t | y_s); Bayes' rule with the mean p(y_s) turns it round.

  Args:
    logits: (N, K_s) float, of the pretrained classifier for the target's training
      images, and calibrated: times `calibrate`'s scale on the source's held-out data,
      where that is at hand (the paper's is 0.884 for torchvision's ResNet-50).
    labels: (N,) integer, in [0, K_t), each there.
    validation_logits, validation_labels: the same of the target's validation split,
      whose accuracy chooses the penalty.
    penalties: inverse strengths of the regression's; the first of the best is taken.

  Returns:
    (K_t, K_s) float64; rows sum to 1.

  Raises:
    InputError: a label is missing among the training labels, or none is held out.
  """
  if not len(validation_labels):
    raise InputError('no example is held out to calibrate by; give 3 of a class')
  count = int(max(labels.max(), validation_labels.max())) + 1
  missing = sorted(set(range(count)) - set(labels.tolist()))
  if missing:
    raise InputError(f'class {missing[0]} has no training example; leave it out')
  logits, validation_logits = np.float64(logits), np.float64(validation_logits)
  seen, held_out = special.softmax(logits, -1), special.softmax(validation_logits, -1)
  fits = [_regress(seen, labels, penalty) for penalty in penalties]
  scores = [np.mean(np.argmax(held_out @ w, -1) == validation_labels) for w in fits]
  weights = fits[int(np.argmax(scores))]
  scale = calibrate(held_out @ weights, validation_labels)
  # In logs, as a class may be too unlikely of all source classes for a float. A row
  # of the weights is a certain y_s.
  target_given_source = special.log_softmax(scale * weights, axis=-1)
  every = special.log_softmax(np.concatenate([logits, validation_logits]), axis=-1)
  marginal = special.logsumexp(every, axis=0)
  return special.softmax(marginal + target_given_source.T, axis=-1)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the scale, in [1e-3, 1e3], under which the logits' cross-entropy is least.

  The inverse of a temperature (Guo et al., 2017). Shapes (N, K) and (N,).
  """

  def cost(exponent):
    likely = special.log_softmax(np.exp(exponent) * logits, axis=-1)
    return -np.mean(likely[np.arange(len(labels)), labels])

  limits = np.log([1e-3, 1e3])
  return float(
    np.exp(optimize.minimize_scalar(cost, bounds=limits, method='bounded').x)
  )


def _regress(features, labels, penalty):
  """Weights (D, K) of a multinomial logistic regression without intercept."""
  model = linear_model.LogisticRegression(
    C=penalty, fit_intercept=False, tol=1e-6, max_iter=1000
  )
  with warnings.catch_warnings():
    # One that has not converged is a candidate like the others.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    weights = model.fit(features, labels).coef_
  if len(weights) == 1:  # of two classes it is the second's logit, the first's is 0
    weights = np.concatenate([np.zeros_like(weights), weights])
  return weights.T
