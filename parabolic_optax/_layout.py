"""Grouping of the leaves into parabolas, and the inner products that feed them."""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parabolic_optax._types import Axis, Per

# Most terms, and most sums of so many, that are added one after the other: float32 then loses less
# than a ten-thousandth. Longer rows are not faster; of shorter ones there would be too many.
_ROW, _SHORT, _ROWS = 512, 32, 16384


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
        leaves, names = jax.tree.leaves(tree), leaf_paths(tree)
        axes = [
            _axis(axis, name) for axis, name in zip(_axes(tree, per, names), names, strict=True)
        ]
        for name, leaf, axis in zip(names, leaves, axes, strict=True):
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

    def inners(self, *pairs: tuple[Any, Any]) -> jax.Array:
        """The same of several pairs of trees, one row for each."""
        if not self.axes:
            return jnp.zeros((len(pairs), self.size), jnp.float32)
        leaves = zip(*(jax.tree.leaves(tree) for pair in pairs for tree in pair), strict=True)
        parts = [_inner_leaf(each, axis) for each, axis in zip(leaves, self.axes, strict=True)]
        # One leaf after the other, and of every leaf one pair after the other.
        owners, start, total = [], 0, sum(self.sizes)
        for sums, size in zip(parts, self.sizes, strict=True):
            for pair, each in enumerate(sums):
                first = pair * total + start
                owners.append(np.full(each.size, first) if size == 1 else first + np.arange(size))
            start += size
        stacked = jnp.concatenate([each for sums in parts for each in sums])
        added = _added(stacked, np.concatenate(owners, dtype=np.int32), len(pairs) * total)
        return self.pooled(added.reshape(len(pairs), total))

    @property
    def apart(self) -> "Layout":
        """The same, with a parabola of its own for every leaf where all share one."""
        return dataclasses.replace(self, shared=False)

    def pooled(self, values: jax.Array) -> jax.Array:
        """One value per parabola, from the sums of [..., m] that :attr:`apart` gives."""
        return jnp.sum(values, axis=-1, keepdims=True) if self.shared else values

    def shapes(self, tree: Any) -> list[tuple[int, ...]]:
        """Shape of each leaf of `tree`, or of one of its slices."""
        return [
            leaf.shape if axis is None else tuple(np.delete(leaf.shape, axis).tolist())
            for leaf, axis in zip(jax.tree.leaves(tree), self.axes, strict=True)
        ]

    def square(self, squares: jax.Array, tree: Any) -> jax.Array:
        """Squared norm of the matrices of `tree`, or of all of it where there are none.

        A bias may have been set to the mean of the targets, whose unit is not that of the weights.
        `squares` are those that :attr:`apart` gives.
        """
        matrices = [len(shape) > 1 and math.prod(shape) > 0 for shape in self.shapes(tree)]
        counted = np.repeat(matrices, self.sizes).astype(bool)
        return jnp.sum(jnp.where(counted, squares, 0.0) if any(matrices) else squares)

    def entries(self, tree: Any) -> np.ndarray:
        """Number of entries of `tree` per parabola, at least 1; float32."""
        counts = [
            np.full(size, leaf.size // max(1, size))
            for leaf, size in zip(jax.tree.leaves(tree), self.sizes, strict=True)
        ]
        each = np.concatenate([np.zeros(0), *counts])
        return np.maximum(1.0, each.sum(keepdims=True) if self.shared else each).astype(np.float32)

    def spread(self, values: jax.Array, tree: Any) -> Any:
        """One array per leaf of `tree` that broadcasts the leaf's values, of [..., n], over it."""
        leaves, treedef = jax.tree.flatten(tree)
        start, spread = 0, []
        for leaf, axis, size in zip(leaves, self.axes, self.sizes, strict=True):
            if self.shared or axis is None:
                spread.append(pick(values, 0 if self.shared else start))
            else:
                shape = [1] * leaf.ndim
                shape[axis] = size
                own = values[..., start : start + size]
                spread.append(own.reshape(own.shape[:-1] + tuple(shape)))
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
    """The entry values[..., index]; the compiled loops that use it do not depend on the index."""
    # The index is data: XLA folds no array of several numbers into its code. So the loops over
    # tensors of one shape stay the same program, which is compiled once. With the index in the
    # code it is compiled for every tensor.
    return jnp.take(values, np.array([index, index + 1], np.int32), axis=-1, mode="clip")[..., 0]


def _axes(tree: Any, per: Any, names: list[str]) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    if isinstance(per, str):
        if per not in ("tensor", "global"):
            raise ValueError(
                f"per={per!r} is not known: use 'tensor', 'global', a function of a leaf's"
                " path and the leaf, or a pytree of axes."
            )
        return [None] * len(leaves)
    if is_function(per):
        return [per(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
    # A prefix tree of axes. None means "one parabola" here, so it must count as a leaf.
    return per_leaf("per", "axis", per, tree, is_leaf=lambda x: x is None)


def _axis(axis: Any, name: str) -> Axis:
    try:
        # To Python a bool is an integer; it was meant for a mask.
        number: Any = float(axis) if isinstance(axis, bool) else axis
        return None if number is None else operator.index(number)
    except TypeError:
        raise ValueError(
            f"per gives {axis!r} for {name or 'the parameters'}: an axis must be an integer, or"
            " None for the whole leaf."
        ) from None


def is_function(value: Any) -> bool:
    """Whether a value is a function, and not a tree that can be called, as modules are."""
    bound = isinstance(value, jax.tree_util.Partial)
    return callable(value) and (bound or jax.tree_util.all_leaves([value]))


def per_leaf(
    argument: str,
    kind: str,
    prefix: Any,
    tree: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> list[Any]:
    """What a prefix of `tree` says, once for every leaf of `tree`; raises ValueError for others.

    To the user the prefix is an argument, and its leaves are of some kind.
    """
    values: list[Any] = []

    def extend(value: Any, subtree: Any) -> None:
        values.extend([value] * len(jax.tree.leaves(subtree)))

    try:
        jax.tree.map(extend, prefix, tree, is_leaf=is_leaf)
    except ValueError as error:
        # JAX calls the prefix by the names of its own function and argument.
        difference = str(error).replace("tree_map tree", argument)
        raise ValueError(
            f"{argument} must be one {kind} for all parameters, or a tree like theirs, in which one"
            f" {kind} may stand for a whole subtree. {difference}"
        ) from None
    return values


def _added(sums: jax.Array, owners: np.ndarray, count: int) -> jax.Array:
    """The sums of every one of so many owners together, [count]."""
    if np.array_equal(np.sort(owners), np.arange(count)):
        return sums[np.argsort(owners).astype(np.int32)]
    return jax.ops.segment_sum(sums, owners, count)


def _inner_leaf(trees: tuple[jax.Array, ...], axis: Axis) -> list[jax.Array]:
    """Inner products of the first two arrays, the next two, and so on.

    Each is one number per slice; for a whole leaf several that are still to be added.
    """
    products = []
    for a, b in zip(trees[::2], trees[1::2], strict=True):
        wide = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
        products.append(jnp.real(jnp.conj(a.astype(wide)) * b.astype(wide)))
    leaf = products[0]
    row = max(n for n in range(1, _ROW + 1) if leaf.size % n == 0)
    if axis is None and len(products) > 1 and row >= min(_SHORT, leaf.size) and _one_cpu():
        wide = jnp.result_type(*products)
        sums = _row_sums(*(p.astype(wide).reshape(-1, row) for p in products))
        if sums[0].size > _ROWS:
            sums = [jnp.sum(each).reshape(1) for each in sums]
        return [each.astype(jnp.float32) for each in sums]
    others = tuple(i for i in range(leaf.ndim) if axis is None or i != axis % leaf.ndim)
    return [_on_all(jnp.sum(p, axis=others).astype(jnp.float32).reshape(-1)) for p in products]


def _one_cpu() -> bool:
    # XLA for CPUs makes a loop of every sum, each of which reads its operands anew. Sums over rows
    # would be sent between devices that share a row; on GPUs they have not been measured.
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _on_all(values: jax.Array) -> jax.Array:
    """The same on every device, where explicit sharding has cut the axis of the slices."""
    if not hasattr(jax, "typeof") or not any(jax.typeof(values).sharding.spec):
        return values
    return jax.sharding.reshard(values, jax.sharding.PartitionSpec())


@jax.custom_jvp
def _row_sums(*arrays: jax.Array) -> list[jax.Array]:
    """Sums over the last axis of several arrays of one shape, in one loop."""
    zeros = (jnp.zeros([], arrays[0].dtype),) * len(arrays)
    last = arrays[0].ndim - 1
    return list(jax.lax.reduce(arrays, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (last,)))


@_row_sums.defjvp
def _row_sums_jvp(arrays: Any, tangents: Any) -> tuple[Any, Any]:
    # JAX cannot differentiate a reduction of several arrays backwards.
    return _row_sums(*arrays), [jnp.sum(tangent, axis=-1) for tangent in tangents]
