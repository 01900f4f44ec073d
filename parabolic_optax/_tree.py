"""Arithmetic on trees and scalars, choices between two states, and weights of running means."""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax

from parabolic_optax import _checks


def wide_copy(tree: Any) -> Any:
    """A true copy of the leaves in at least float32; never an alias, so donation is safe."""
    return jax.tree.map(lambda p: jnp.array(p, _wide_type(p.dtype), copy=True), tree)


def widen(tree: Any) -> Any:
    """The leaves in at least float32; no longer weakly typed, as Python numbers are."""
    return jax.tree.map(lambda x: x.astype(_wide_type(x.dtype)), tree)


def arrays(tree: Any) -> Any:
    """The leaves as arrays of JAX, which NumPy's are not, nor Python's numbers."""
    return jax.tree.map(jnp.asarray, tree)


def as_like(x: jax.Array, leaf: Any) -> jax.Array:
    """An array in the type of a leaf."""
    return x.astype(jax.dtypes.canonicalize_dtype(leaf.dtype))


def _wide_type(dtype: Any) -> Any:
    # NumPy's float64 is no type of JAX unless it is asked for.
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def real_type(tree: Any) -> Any:
    """Widest real type of the leaves, at least float32: the type of coefficients."""
    types = [jnp.finfo(_wide_type(leaf.dtype)).dtype for leaf in jax.tree.leaves(tree)]
    return jnp.result_type(jnp.float32, *types)


def size(tree: Any) -> int:
    """Number of entries of all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def root(square: jax.Array) -> jax.Array:
    """Square root, 0 of what is negative; its derivative at 0 is 0 and not infinite."""
    positive = square > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Quotient; 0, with derivatives of 0, where the whole is not above the smallest normal."""
    # A framework's variable does not compare; its array does.
    part, whole = jnp.asarray(part), jnp.asarray(whole)
    normal = whole > jnp.finfo(jnp.float32).tiny
    return jnp.where(normal, part / jnp.where(normal, whole, 1.0), 0.0)


def inverse(x: jax.Array) -> jax.Array:
    """1 / x, and 0 where x is 0; no number on the way is infinite."""
    some = x != 0.0
    return jnp.where(some, 1.0 / jnp.where(some, x, 1.0), 0.0)


def dot(a: Any, b: Any) -> jax.Array:
    """Real inner product of two trees of wide leaves; scalar."""
    return project(jax.tree.map(lambda x: x[None], a), b, 1)[0]


def project(rows: Any, vector: Any, rank: int) -> jax.Array:
    """Real inner products of every row (leading axis of length k) with a vector; [k]."""
    # A product and a sum rather than a contraction, which explicit sharding does not allow
    # along axes that are cut, and which sums less accurately.
    parts = [
        jnp.sum(jnp.real(jnp.conj(r) * v[None]), axis=tuple(range(1, r.ndim)))
        for r, v in zip(jax.tree.leaves(rows), jax.tree.leaves(vector), strict=True)
    ]
    dtype = real_type(vector)
    return sum((part.astype(dtype) for part in parts), jnp.zeros(rank, dtype))


def empty_rows(tree: Any, rank: int) -> Any:
    """Rows of zeros like `tree`, k of them; made of it, so they are cut over devices as it is."""
    return jax.tree.map(lambda p: jnp.broadcast_to(jnp.zeros_like(p)[None], (rank, *p.shape)), tree)


def combine(coefficients: jax.Array, rows: Any) -> Any:
    """Sum of the rows, weighted by real coefficients of shape [k]."""
    return jax.tree.map(
        lambda r: jnp.tensordot(coefficients.astype(r.dtype), r, axes=1, precision="highest"), rows
    )


def scale(factor: jax.Array, tree: Any) -> Any:
    """The leaves times a real factor, each in its own type."""
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


def axpy(factor: jax.Array | float, x: Any, y: Any) -> Any:
    """Sum y + factor x, leaf by leaf, in the types of y."""
    return jax.tree.map(lambda u, v: v + jnp.asarray(factor).astype(v.dtype) * u, x, y)


def where(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the scalar condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def branch(condition: jax.Array, do: Any, skip: Any, *operands: Any) -> Any:
    """`do` of the operands where the scalar condition holds, else `skip`; only one of them runs."""
    if not isinstance(condition, jax.core.Tracer):
        # Outside of jit a cond would be compiled anew in every step.
        return do(*operands) if condition else skip(*operands)
    return jax.lax.cond(condition, do, skip, *operands)


def choose(condition: jax.Array, do: Any, skip: Any, *operands: Any) -> Any:
    """The same, for a `skip` that is rare and costs nothing.

    On GPUs both run: XLA puts the choice into the loops that use the result, which a branch has
    to store.
    """
    if isinstance(condition, jax.core.Tracer) and jax.default_backend() == "gpu":
        return where(condition, do(*operands), skip(*operands))
    return branch(condition, do, skip, *operands)


def observe(updates: Any, params: Any, like: Any) -> tuple[Any, Any, jax.Array]:
    """Parameters and gradients, checked, in the types of `like`; squared norm of the latter."""
    _checks.match(updates, params)
    point, gradient = (jax.tree.map(as_like, arrays(tree), like) for tree in (params, updates))
    return point, gradient, dot(gradient, gradient)


def informative(square: jax.Array) -> jax.Array:
    """Whether gradients of this squared norm say anything about the loss; bool scalar.

    Not if it is no number, nor if they are zero, or too small to be squared.
    """
    return jnp.isfinite(square) & (square > 0.0)


def accept_or_skip(usable: jax.Array, new: Any, state: Any) -> Any:
    """State after a sample: `new`, or the old one with the sample counted as skipped."""
    return where(usable, new, state._replace(skipped=next_count(state.skipped)))


def step_or_stay(usable: jax.Array, step: Any, params: Any) -> Any:
    """Updates in the types of the parameters: the step, or 0 where the sample is not usable."""
    return jax.tree.map(lambda s, p: as_like(jnp.where(usable, s, 0.0), p), step, params)


def next_count(count: jax.Array) -> jax.Array:
    """One more; the largest integer stays as it is."""
    return jnp.asarray(optax.safe_increment(count))


def polynomial_weight(count: jax.Array, power: float | jax.Array) -> jax.Array:
    """Weight of sample number `count` in a polynomial-decay average; float32 scalar.

    The running mean m += w (x - m) with w = (power + 1) / (count + power) gives sample i
    a final weight that grows like i^power: it averages over a fixed fraction of the past,
    1 / (power + 1), without knowing how long the run will be. The first sample has weight
    1, so what the mean held before does not matter. Source: Shamir and Zhang, ICML 2013,
    section 4, with the count starting at 1.
    """
    (power,) = as_float32(power)
    return (power + 1.0) / (count.astype(jnp.float32) + power)


def sample_weight(
    stride: jax.Array, count: jax.Array, power: float | jax.Array, most: float | jax.Array = 1.0
) -> jax.Array:
    """The same of a sample that stands for several steps, at most `most`."""
    return jnp.minimum(most, stride * polynomial_weight(count, power))


def follow(mean: jax.Array, value: jax.Array, weight: jax.Array) -> jax.Array:
    """A running mean after a value of this weight. Where that is 0 it stays, whatever the value."""
    return jnp.where(weight > 0.0, mean + weight * (value - mean), mean)


def as_float32(*values: float | jax.Array) -> list[jax.Array]:
    """Constants as they enter formulas of the parabolas."""
    return as_type(jnp.float32, *values)


def as_type(dtype: Any, *values: float | jax.Array) -> list[jax.Array]:
    """Constants in a real type; one that is injected has that of the gradients, maybe complex."""
    return [jnp.real(jnp.asarray(value)).astype(dtype) for value in values]


def recent_weight(count: jax.Array, decay: float | jax.Array, dtype: Any) -> jax.Array:
    """Weight of sample number `count` in an average that decays; scalar of `dtype`.

    1 / count at first, which is the mean of all samples, and 1 - decay later: an
    exponential average without a bias towards where it starts.
    """
    (recent,) = as_type(dtype, 1.0 - decay)
    return jnp.maximum(recent, 1.0 / count.astype(dtype))
