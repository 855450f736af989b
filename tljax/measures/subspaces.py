"""Distances between what two domains' features span, for regressions under shift.

A regression feels the scale of features, which some distances of `shift.py` change.
"""

import chex
import jax
import jax.numpy as jnp
import optax


def rsd(source: jax.Array, target: jax.Array, *, mismatch: float = 0.1) -> jax.Array:
  """Representation subspace distance plus mismatch x that of the bases.

  The sum of the sines of the principal angles between the spans of the two batches
  (Chen et al., 2021, equation 4), and the bases mismatch penalisation (equation 6).
  A span is that of the leading min(N, M, D / 2) singular vectors: larger ones would
  meet whatever the features are. The paper has D much larger than N = M.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    mismatch: weight of the penalisation; the default is the authors'.
  """
  chex.assert_rank([source, target], 2)
  count = max(1, min(len(source), len(target), source.shape[-1] // 2))
  bases = [thin_svd(x)[2][:, :count] for x in (source, target)]
  shared = bases[0].T @ bases[1]
  left, _, right = thin_svd(shared)
  # From 1 - cosine squared, small ones would drown in rounding.
  sines = jnp.linalg.svd(bases[1] - bases[0] @ shared, compute_uv=False)
  gap = optax.safe_norm((jnp.abs(left) - jnp.abs(right)).ravel(), 0.0)
  return jnp.sum(sines) + mismatch * gap


def dare_gram(
  source: jax.Array,
  target: jax.Array,
  *,
  angle: float = 0.05,
  scale: float = 0.001,
  threshold: float = 0.9,
) -> jax.Array:
  """angle x the angles between pseudo-inverse Gram matrices + scale x their spectra's.

  (Nejjar et al., 2023.) A column of ones joins the features, as in least squares. Of
  the Gram matrices the pseudo-inverses have k leading directions alone. The first term
  is the mean, over columns, of 1 - their cosine, the second the distance of the k
  leading eigenvalues, over k. The defaults, and how k follows from the threshold, are
  those of the authors' code.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    angle: weight of the first term.
    scale: weight of the second.
    threshold: share of the sum of eigenvalues that the leading ones stay below; k is
      1 at least, and the larger of the domains'.
  """
  chex.assert_rank([source, target], 2)
  count = min(len(source), len(target), source.shape[-1] + 1)
  spectra, bases = [], []
  for x in (source, target):
    _, s, v = thin_svd(jnp.concatenate([jnp.ones_like(x[:, :1]), x], 1))
    spectra.append(jnp.square(s)[:count])
    bases.append(v[:, :count])

  def leading(spectrum):
    shares = jnp.cumsum(spectrum) / jnp.sum(spectrum)
    return jnp.sum(shares <= jnp.maximum(threshold, shares[1])) - 1

  k = jnp.maximum(*map(leading, spectra))
  kept = jnp.arange(count) < k

  def inverse(spectrum, v):
    there = kept & (spectrum > jnp.finfo(v.dtype).eps * spectrum[0])
    return v * jnp.where(there, 1 / jnp.where(there, spectrum, 1), 0)[None] @ v.T

  inverses = list(map(inverse, spectra, bases))
  lengths = [optax.safe_norm(x, 1e-6, axis=0) for x in inverses]
  cosines = jnp.sum(inverses[0] * inverses[1], 0) / (lengths[0] * lengths[1])
  gaps = jnp.where(kept, spectra[0] - spectra[1], 0)
  spread = optax.safe_norm(gaps, 0.0) / k.astype(gaps.dtype)
  return angle * jnp.mean(1 - cosines) + scale * spread


@jax.custom_jvp
def thin_svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Singular value decomposition x = u diag(s) v^T whose gradient is always finite.

  That of the vectors has poles where singular values are equal or 0, as those of
  rectified features are; within rounding of them it fades to 0 here.

  Args:
    x: (N, D).

  Returns:
    u (N, R), s (R,), largest first, and v (D, R); R is min(N, D).
  """
  u, s, vt = jnp.linalg.svd(x, full_matrices=False)
  return u, s, vt.T


@thin_svd.defjvp
def _thin_svd_jvp(primals, tangents):
  u, s, v = thin_svd(*primals)
  (dx,) = tangents
  inner = u.T @ dx @ v
  # Of the squares' differences, and of the values: pole by pole. Above rounding, or
  # that of a step's sums would be blown up to another direction; not far, or a batch of
  # 36, whose squares lie within 1e-3 of each other, would lose half of its gradient.
  eps, top = jnp.finfo(s.dtype).eps, s[0]
  squares = jnp.square(s)[None] - jnp.square(s)[:, None]
  gaps = _inverse(squares, eps**0.75 * jnp.square(top))
  heights = _inverse(s, eps**0.5 * top)[None]
  du = u @ (gaps * (inner * s[None] + s[:, None] * inner.T))
  dv = v @ (gaps * (s[:, None] * inner + inner.T * s[None]))
  du += (dx @ v - u @ inner) * heights
  dv += (dx.T @ u - v @ inner.T) * heights
  return (u, s, v), (du, jnp.diagonal(inner), dv)


def _inverse(x, small):
  """1 / x, fading to 0 below `small`; above it the loss is (small / x)^4."""
  there = small > 0
  unit = jnp.where(there, small, 1)
  ratio = x / unit
  return jnp.where(there, ratio**3 / (1 + ratio**4) / unit, 0)
