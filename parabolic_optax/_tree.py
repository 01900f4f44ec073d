"""Grouping of the leaves into parabolas, and the inner products that feed them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from parabolic_optax._types import Axis, Per

# Most terms that are summed one after the other: float32 then loses less than a thousandth.
_ROW = 65536
# Shorter rows leave sums that are as many as the terms.
_SHORT = 32


def leaf_keys(tree: Any) -> list[tuple[Any, ...]]:
    """Where every leaf sits, as the keys that lead to it."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
    keys = []
    for path, node in nodes:
        for inside, _ in jax.tree_util.tree_flatten_with_path(node)[0]:
            # Flax NNX keeps arrays as the value of a variable; their name is the variable's.
            wrapped = inside[:1] == (jax.tree_util.GetAttrKey("value"),)
            keys.append(path + inside[wrapped:])
    return keys


def _is_variable(node: Any) -> bool:
    return any(
        kind.__name__ in ("Variable", "VariableState") and kind.__module__.startswith("flax.")
        for kind in type(node).__mro__
    )


def leaf_paths(tree: Any) -> list[str]:
    """Name of every leaf, such as ``dense/kernel``."""
    return [jax.tree_util.keystr(key, simple=True, separator="/") for key in leaf_keys(tree)]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which parabola each entry of each leaf belongs to; static, made while tracing.

    Attributes:
      axes: per leaf, the axis along which every slice has its own parabola, or None.
      sizes: per leaf, its number of parabolas.
      shared: whether all leaves share one parabola.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int, ...]
    shared: bool

    @classmethod
    def of(cls, tree: Any, per: Per) -> "Layout":
        """Layout of the leaves of `tree`; raises ValueError for an impossible `per`."""
        leaves = jax.tree.leaves(tree)
        axes = _axes(tree, per)
        for name, leaf, axis in zip(leaf_paths(tree), leaves, axes, strict=True):
            if axis is not None and not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(
                    f"per asks for slices along axis {axis} of {name or 'the parameters'},"
                    f" which has shape {leaf.shape}."
                )
        sizes = [
            1 if axis is None else leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True)
        ]
        return cls(tuple(axes), tuple(sizes), shared=per == "global")

    @property
    def size(self) -> int:
        """Number of parabolas."""
        return 1 if self.shared else sum(self.sizes)

    def inner(self, a: Any, b: Any) -> jax.Array:
        """Inner products of two trees, one per parabola, accumulated in at least float32."""
        return self.inners((a, b))[0]

    def inners(self, *pairs: tuple[Any, Any]) -> list[jax.Array]:
        """The same of several pairs of trees."""
        if not self.axes:
            return [jnp.zeros(self.size, jnp.float32) for _ in pairs]
        leaves = zip(*(jax.tree.leaves(tree) for pair in pairs for tree in pair), strict=True)
        parts = [_inner_leaf(each, axis) for each, axis in zip(leaves, self.axes, strict=True)]
        stacked = jnp.concatenate([row for rows in parts for row in rows])
        # One leaf after the other, and of every leaf one pair after the other.
        starts = len(pairs) * np.cumsum((0, *self.sizes[:-1]))
        blocks = [
            start + np.arange(len(pairs) * size, dtype=np.int32).reshape(len(pairs), size)
            for start, size in zip(starts, self.sizes, strict=True)
        ]
        places = np.concatenate(blocks, axis=1, dtype=np.int32)
        return [self.pooled(stacked[place]) for place in places]

    @property
    def apart(self) -> "Layout":
        """The same, with a parabola of its own for every leaf where all share one."""
        return dataclasses.replace(self, shared=False)

    def pooled(self, values: jax.Array) -> jax.Array:
        """One value per parabola, from the sums that :attr:`apart` gives."""
        return jnp.sum(values, keepdims=True) if self.shared else values

    def entries(self, tree: Any) -> np.ndarray:
        """Number of entries of `tree` per parabola, at least 1; float32."""
        counts = [
            np.full(size, leaf.size // max(1, size))
            for leaf, size in zip(jax.tree.leaves(tree), self.sizes, strict=True)
        ]
        each = np.concatenate([np.zeros(0), *counts])
        return np.maximum(1.0, each.sum(keepdims=True) if self.shared else each).astype(np.float32)

    def spread(self, values: jax.Array, tree: Any) -> Any:
        """One array per leaf of `tree` that broadcasts the leaf's values over it."""
        leaves, treedef = jax.tree.flatten(tree)
        start, spread = 0, []
        for leaf, axis, size in zip(leaves, self.axes, self.sizes, strict=True):
            if self.shared or axis is None:
                spread.append(pick(values, 0 if self.shared else start))
            else:
                shape = [1] * leaf.ndim
                shape[axis] = size
                spread.append(values[start : start + size].reshape(shape))
            start += size
        return treedef.unflatten(spread)

    def split(self, values: jax.Array) -> list[jax.Array]:
        """The values of each leaf: a scalar, or one entry per slice."""
        start, parts = 0, []
        for axis, size in zip(self.axes, self.sizes, strict=True):
            if self.shared or axis is None:
                parts.append(values[0 if self.shared else start])
            else:
                parts.append(values[start : start + size])
            start += size
        return parts


def pick(values: jax.Array, index: int) -> jax.Array:
    """The number values[index]; the compiled loops that use it do not depend on the index."""
    # The index is data: XLA folds no array of several numbers into its code. So the loops over
    # tensors of one shape stay the same program, which is compiled once. With the index in the
    # code it is compiled for every tensor.
    return jnp.take(values, np.array([index, index + 1], np.int32), mode="clip")[0]


def _axes(tree: Any, per: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    if isinstance(per, str):
        if per not in ("tensor", "global"):
            raise ValueError(
                f"per={per!r} is not known: use 'tensor', 'global', a function of a leaf's"
                " path and the leaf, or a pytree of axes."
            )
        return [None] * len(leaves)
    if is_function(per):
        return [per(name, leaf) for name, leaf in zip(leaf_paths(tree), leaves, strict=True)]
    # A prefix tree of axes. None means "one parabola" here, so it must count as a leaf.
    return per_leaf(per, tree, is_leaf=lambda x: x is None)


def is_function(value: Any) -> bool:
    """Whether a value is a function, and not a tree that can be called, as modules are."""
    bound = isinstance(value, jax.tree_util.Partial)
    return callable(value) and (bound or jax.tree_util.all_leaves([value]))


def per_leaf(prefix: Any, tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """What a prefix of `tree` says, once for every leaf of `tree`."""
    values: list[Any] = []

    def extend(value: Any, subtree: Any) -> None:
        values.extend([value] * len(jax.tree.leaves(subtree)))

    jax.tree.map(extend, prefix, tree, is_leaf=is_leaf)
    return values


def _inner_leaf(trees: tuple[jax.Array, ...], axis: Axis) -> list[jax.Array]:
    """Inner products of the first two arrays, the next two, and so on, in one row or several."""
    products = []
    for a, b in zip(trees[::2], trees[1::2], strict=True):
        wide = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
        products.append(jnp.real(jnp.conj(a.astype(wide)) * b.astype(wide)))
    leaf = products[0]
    first = _row_axis(leaf.shape) if axis is None and len(products) > 1 and _one_cpu() else None
    if first is not None:
        sums = _row_sums(first, *(p.astype(jnp.result_type(*products)) for p in products))
        return [jnp.sum(each).astype(jnp.float32).reshape(1) for each in sums]
    others = tuple(i for i in range(leaf.ndim) if axis is None or i != axis % leaf.ndim)
    return [jnp.sum(p, axis=others).astype(jnp.float32).reshape(-1) for p in products]


def _one_cpu() -> bool:
    # XLA for CPUs makes a loop of every sum, each of which reads its operands anew. Sums over rows
    # would be sent between devices that share a row; on GPUs they have not been measured.
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _row_axis(shape: tuple[int, ...]) -> int | None:
    """First axis of the longest rows of neither too many nor too few entries, if there are any."""
    lengths = [math.prod(shape[axis:]) for axis in range(len(shape))]
    short = min(_SHORT, math.prod(shape))
    return next((axis for axis, n in enumerate(lengths) if short <= n <= _ROW), None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _row_sums(first: int, *arrays: jax.Array) -> list[jax.Array]:
    """Sums over the axes from the first one on, of several arrays of one shape in one loop."""
    zeros = (jnp.zeros([], arrays[0].dtype),) * len(arrays)
    axes = tuple(range(first, arrays[0].ndim))
    return list(jax.lax.reduce(arrays, zeros, lambda a, b: tuple(map(jnp.add, a, b)), axes))


@_row_sums.defjvp
def _row_sums_jvp(first: int, arrays: Any, tangents: Any) -> tuple[Any, Any]:
    # JAX cannot differentiate a reduction of several arrays backwards.
    axes = tuple(range(first, arrays[0].ndim))
    return _row_sums(first, *arrays), [jnp.sum(tangent, axes) for tangent in tangents]


def wide(tree: Any) -> Any:
    """A true copy of the leaves in at least float32; never an alias, so donation is safe."""
    return jax.tree.map(lambda p: jnp.array(p, _wide_type(p.dtype), copy=True), tree)


def widened(tree: Any) -> Any:
    """The leaves in at least float32; no longer weakly typed, as Python numbers are."""
    return jax.tree.map(lambda x: x.astype(_wide_type(x.dtype)), tree)


def _wide_type(dtype: Any) -> Any:
    # NumPy's float64 is no type of JAX unless it is asked for.
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def real_type(tree: Any) -> Any:
    """Widest real type of the leaves, at least float32: the type of coefficients."""
    types = [jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(tree)]
    return jnp.result_type(jnp.float32, *types)


def count(tree: Any) -> int:
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


def axpy(scale: jax.Array | float, x: Any, y: Any) -> Any:
    """Sum y + scale x, leaf by leaf, in the types of y."""
    return jax.tree.map(lambda u, v: v + jnp.asarray(scale).astype(v.dtype) * u, x, y)


def where(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the scalar condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def branch(condition: jax.Array, do: Any, skip: Any, *operands: Any) -> Any:
    """`do` of the operands where the scalar condition holds, else `skip`.

    Only one of them runs, except on GPUs: to branch, these would have to wait for the host.
    """
    if not isinstance(condition, jax.core.Tracer):
        # Outside of jit a cond would be compiled anew in every step.
        return do(*operands) if condition else skip(*operands)
    if jax.default_backend() == "gpu":
        return where(condition, do(*operands), skip(*operands))
    return jax.lax.cond(condition, do, skip, *operands)


def observe(updates: Any, params: Any, like: Any) -> tuple[Any, Any, jax.Array]:
    """Parameters and gradients, checked, in the types of `like`; squared norm of the latter."""
    check_match(updates, params)
    point, gradient = (
        jax.tree.map(lambda x, wide: x.astype(wide.dtype), tree, like) for tree in (params, updates)
    )
    return point, gradient, dot(gradient, gradient)


def telling(square: jax.Array) -> jax.Array:
    """Whether gradients of this squared norm say anything about the loss; bool scalar.

    Not if it is no number, nor if they are zero, or too small to be squared.
    """
    return jnp.isfinite(square) & (square > 0.0)


def taken(usable: jax.Array, new: Any, state: Any) -> Any:
    """State after a sample: `new`, or the old one with the sample counted as skipped."""
    skipped = jnp.asarray(optax.safe_increment(state.skipped))
    return where(usable, new, state._replace(skipped=skipped))


def polynomial_weight(count: jax.Array, power: float | jax.Array) -> jax.Array:
    """Weight of sample number `count` in a polynomial-decay average; float32 scalar.

    The running mean m += w (x - m) with w = (power + 1) / (count + power) gives sample i
    a final weight that grows like i^power: it averages over a fixed fraction of the past,
    1 / (power + 1), without knowing how long the run will be. The first sample has weight
    1, so what the mean held before does not matter. Source: Shamir and Zhang, ICML 2013,
    section 4, with the count starting at 1.
    """
    return jnp.asarray((power + 1.0) / (count.astype(jnp.float32) + power), jnp.float32)


def sample_weight(
    stride: jax.Array, count: jax.Array, power: float | jax.Array, most: float = 1.0
) -> jax.Array:
    """The same of a sample that stands for several steps, at most `most`."""
    return jnp.minimum(most, stride * polynomial_weight(count, power))


def as_float32(*values: float | jax.Array) -> list[jax.Array]:
    """Constants as they enter formulas; one that is injected has the type of the gradients."""
    return [jnp.real(jnp.asarray(value)).astype(jnp.float32) for value in values]


def recent_weight(count: jax.Array, decay: float | jax.Array, dtype: Any) -> jax.Array:
    """Weight of sample number `count` in an average that decays; scalar of `dtype`.

    1 / count at first, which is the mean of all samples, and 1 - decay later: an
    exponential average without a bias towards where it starts.
    """
    return jnp.maximum(1.0 - decay, 1.0 / count.astype(dtype)).astype(dtype)


def concrete(value: Any) -> bool:
    """Whether a constant can be checked now, without a transfer from a device."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value <= high; an array is taken on trust."""
    if concrete(value) and not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}.")
    if not (concrete(value) or hasattr(value, "dtype")):
        raise TypeError(f"{name} must be a number, got {value!r}.")


def check_direction(base: Any) -> None:
    """Raises TypeError for a base that is not a gradient transformation."""
    if not (callable(getattr(base, "init", None)) and callable(getattr(base, "update", None))):
        raise TypeError(
            "base must be an optax gradient transformation, such as optax.scale_by_adam();"
            f" got {base!r}."
        )


def check_ascent(base: optax.GradientTransformation) -> None:
    """Raises ValueError for a base whose first step on a probe that is not 0 points downhill."""
    probe = jnp.array([[1.0, -0.5], [0.25, 2.0]], jnp.float32)
    along = 0.0
    try:
        with jax.ensure_compile_time_eval():
            state: Any = base.init(jnp.zeros_like(probe))
            # The first step of a warm-up is zero.
            for _ in range(2):
                direction: Any
                direction, state = base.update(probe, state, jnp.zeros_like(probe))
                along = along or float(jnp.sum(direction * probe))
    except Exception:
        # A base made for its own tree, or with traced constants, is taken on trust; what is
        # not a transformation at all is named by the tracker.
        return
    if along < 0.0:
        raise ValueError(
            "base points downhill, as complete optimizers do. Pass a direction, such as"
            " optax.scale_by_adam() in place of optax.adam(rate), or turn it round with"
            " optax.chain(base, optax.scale(-1.0))."
        )


def check_floating(params: Any) -> None:
    """Raises TypeError for a parameter that is not of floating type."""
    for name, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"parameter {name or '(root)'} is {dtype or type(leaf).__name__}; parabolas need"
                " floating-point arrays. Leave other leaves out with optax.partition, or with"
                " optax.masked where nothing has a gradient for them."
            )


def check_match(updates: Any, params: Any) -> None:
    """Raises ValueError unless the gradients have the structure and shapes of the parameters."""
    if params is None:
        raise ValueError(
            "params is needed: positions are read from it. Call update(grads, state, params)."
        )
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(
            "the gradients and the parameters are different trees:"
            f" {jax.tree.structure(updates)} and {jax.tree.structure(params)}."
        )
    for name, g, p in zip(
        leaf_paths(params), jax.tree.leaves(updates), jax.tree.leaves(params), strict=True
    ):
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"the gradient of {name or '(root)'} has shape {jnp.shape(g)},"
                f" the parameter {jnp.shape(p)}."
            )


def check_same_layout(sampled: int, own: int, link: str) -> None:
    """Raises ValueError unless the tracker samples as many parabolas as another link has."""
    if sampled != own:
        raise ValueError(
            f"the tracker samples {sampled} parabolas, the {link} knows of {own}: give both the"
            " same per."
        )


def check_same_rank(followed: int, rank: int) -> None:
    """Raises ValueError unless tracker and estimator were made for as many directions."""
    if followed != rank:
        raise ValueError(
            f"the tracker follows {followed} directions, this estimator was made for {rank}: give"
            " both the same rank."
        )


def check_rank(rank: Any) -> None:
    """Raises unless the rank, which sets shapes, is a positive Python integer."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"rank must be an integer, got {rank!r}.")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
