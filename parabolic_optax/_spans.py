"""Direction trackers of the published OGR forms: gradients in, a :class:`Span` out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._types import Span, link

# A row whose part outside the rows before it is shorter, relative to it, is left empty.
_TOLERANCE = 1e-3


class TrackSpanState(NamedTuple):
    """State of the trackers of a span.

    Attributes:
      directions: k orthonormal rows for the next sample.
      transport: their coefficients over those of the last sample, [k, k].
      memory: what the rows after those are made of.
      mean: running mean of the parameters.
      mean_gradient: running mean of the gradients.
      point: parameters of the last sample.
      gradient: gradient of the last sample.
      count: number of samples taken, int32 scalar.
      skipped: number of steps whose gradient was zero or not finite, int32 scalar.
    """

    directions: Any
    transport: jax.Array
    memory: Any
    mean: Any
    mean_gradient: Any
    point: Any
    gradient: Any
    count: jax.Array
    skipped: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"count": self.count, "skipped": self.skipped}

    def restart(self) -> "TrackSpanState":
        return self._replace(count=jnp.zeros_like(self.count))


def orthonormal(rows: Any, rank: int) -> Any:
    """Gram-Schmidt of k rows, in two passes; a dependent or empty row becomes zero."""
    for i in range(rank):
        row = jax.tree.map(lambda r, i=i: r[i], rows)
        before = jnp.sqrt(_tree.dot(row, row))
        others = jax.tree.map(lambda r, i=i: r[:i], rows)
        for _ in range(2):
            row = _tree.axpy(-1.0, _tree.combine(_tree.project(others, row, i), others), row)
        left = jnp.sqrt(_tree.dot(row, row))
        scale = jnp.where(left > _TOLERANCE * before, 1.0, 0.0) / jnp.where(left > 0.0, left, 1.0)
        rows = jax.tree.map(
            lambda r, x, i=i, scale=scale: jnp.asarray(r).at[i].set(scale.astype(r.dtype) * x),
            rows,
            row,
        )
    return rows


def _coefficients(rows: Any, others: Any, rank: int) -> jax.Array:
    """Inner products [rows_i . others_j], [k, k]."""
    pick = [jax.tree.map(lambda r, i=i: r[i], rows) for i in range(rank)]
    return jnp.stack([_tree.project(others, row, rank) for row in pick])


def _track(
    rank: int,
    decay: float | jax.Array,
    begin: Callable[[Any], Any],
    lay: Callable[[Any], Any],
    grow: Callable[[Any, Any, Any, jax.Array], Any],
) -> optax.GradientTransformationExtraArgs:
    """A tracker whose next directions are `lay(memory)`.

    `begin(params)` makes the memory, `grow(memory, gradient, step, count)` takes in a gradient
    and the last step of the parameters.
    """
    _checks.in_range("decay", decay, 0.0, 1.0)

    def init(params: Any) -> TrackSpanState:
        _checks.floating(params)
        point = _tree.wide_copy(params)

        def nothing() -> Any:
            return jax.tree.map(jnp.zeros_like, point)

        memory = begin(point)
        return TrackSpanState(
            # A copy, because a state that holds an array twice cannot be donated.
            directions=jax.tree.map(lambda rows: jnp.array(rows, copy=True), lay(memory)),
            transport=jnp.eye(rank, dtype=_tree.real_type(point)),
            memory=memory,
            mean=nothing(),
            mean_gradient=nothing(),
            point=point,
            gradient=nothing(),
            count=jnp.zeros([], jnp.int32),
            skipped=jnp.zeros([], jnp.int32),
        )

    def update(
        updates: Any, state: TrackSpanState, params: Any = None, **extra_args: Any
    ) -> tuple[Span, TrackSpanState]:
        del extra_args
        point, gradient, square = _tree.observe(updates, params, state.point)
        usable = _tree.informative(square)
        count = _tree.next_count(state.count)
        # The first sample is its own mean and has no past.
        weight = _tree.recent_weight(count, decay, _tree.real_type(point))
        first = state.count == 0
        from_mean, centred, step, change = (
            jax.tree.map(lambda x, m: jnp.where(first, 0.0, x - m), new, old)
            for new, old in (
                (point, state.mean),
                (gradient, state.mean_gradient),
                (point, state.point),
                (gradient, state.gradient),
            )
        )
        mean, mean_gradient = (
            jax.tree.map(
                lambda m, x: jnp.where(first, x, m + weight.astype(m.dtype) * (x - m)), old, new
            )
            for old, new in ((state.mean, point), (state.mean_gradient, gradient))
        )

        rows = state.directions
        following = lay(state.memory)
        span = Span(
            directions=rows,
            transport=state.transport,
            gradient=gradient,
            distance=jnp.sqrt(_tree.dot(from_mean, from_mean)),
            position=_tree.project(rows, from_mean, rank),
            mean_slope=_tree.project(rows, mean_gradient, rank),
            centred_slope=_tree.project(rows, centred, rank),
            step=_tree.project(rows, step, rank),
            slope_change=_tree.project(rows, change, rank),
            weight=weight,
            usable=usable,
        )
        new = TrackSpanState(
            directions=following,
            transport=_coefficients(following, rows, rank),
            memory=grow(state.memory, gradient, step, count),
            mean=mean,
            mean_gradient=mean_gradient,
            point=point,
            gradient=gradient,
            count=count,
            skipped=state.skipped,
        )
        return span, _tree.accept_or_skip(usable, new, state)

    return link(init, update)


def track_averages(
    scales: Sequence[float] = (0.9,), *, of_updates: bool = False, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the span of running averages of the gradients, or of the updates.

    One scale is the direction of momentum; several are its motion at several time scales.
    The rows are orthonormalised in the order of the scales. The directions of a sample were
    fixed before the gradient of the previous one was drawn, as the instrument form needs.

    Args:
      scales: decay of each average, in [0, 1]; their number is k, static. One of 1 is the mean of
        all samples.
      of_updates: average the steps of the parameters instead of the gradients.
      decay: of the running means of parameters and gradients, in [0, 1]. At 1 they are means
        of all samples.

    Returns:
      A link from gradients to :class:`Span`. State: 2k + 4 buffers like the parameters, in
      at least float32.

    Raises:
      ValueError: no scale is given, or a constant is out of range; in the update, ``params``
        is missing or does not match the gradients.
      TypeError: a constant is not a number, or `scales` not a sequence of them; at init, a
        parameter is not of a floating type of at least 16 bits.

    Source:
      One direction: Duda, arXiv:1907.07063. Several scales: this package.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> tracker = po.track_averages()
      >>> state = tracker.init(jnp.array([1.0, -2.0]))
      >>> for p in (jnp.array([1.0, -2.0]), jnp.array([1.0, -1.5]), jnp.array([1.0, -1.0])):
      ...     span, state = tracker.update(jnp.array([0.0, -4.0]), state, p)
      >>> print(span.directions, span.step)
      [[ 0. -1.]] [-0.5]
    """
    rank = len(scales)
    _checks.rank(rank)
    for scale in scales:
        _checks.in_range("scales", scale, 0.0, 1.0)

    def grow(memory: Any, gradient: Any, step: Any, count: jax.Array) -> Any:
        taken = step if of_updates else gradient
        weights = _tree.recent_weight(count, jnp.asarray(scales), jnp.float32)

        def pull(rows: jax.Array, x: jax.Array) -> jax.Array:
            column = jnp.expand_dims(weights.astype(rows.dtype), range(1, rows.ndim))
            return rows + column * (x[None] - rows)

        return jax.tree.map(pull, memory, taken)

    return _track(
        rank,
        decay,
        lambda params: _tree.empty_rows(params, rank),
        lambda rows: orthonormal(rows, rank),
        grow,
    )


def track_components(
    rank: int = 10, *, rate: float = 0.1, of_updates: bool = False, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the principal components of the gradients, or of the updates (Oja's rule).

    .. math::
      V \leftarrow \mathrm{orth}(V + \gamma\, V \hat g\, \hat g^T), \quad \hat g = g / |g|

    The first k independent gradients fill the rows. Without the unit length of
    :math:`\hat g` a large gradient makes all rows collapse into it.

    Args:
      rank: k, number of directions, static.
      rate: :math:`\gamma`, at least 0.
      of_updates: components of the steps of the parameters instead of the gradients.
      decay: as in :func:`track_averages`.

    Returns:
      A link from gradients to :class:`Span`, with the state of :func:`track_averages`. A step
      costs O(k^2 D), for the orthonormal rows.

    Raises:
      ValueError: `rank` is below 1; otherwise as :func:`track_averages` does.
      TypeError: `rank` is not an integer; otherwise as :func:`track_averages` does.

    Source:
      Duda, arXiv:1901.11457, section on online PCA; Oja, 1982.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> tracker = po.track_components(rank=1)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = tracker.init(params)
      >>> for _ in range(3):
      ...     span, state = tracker.update(jnp.array([3.0, -4.0]), state, params)
      >>> print(span.directions.round(3))
      [[ 0.6 -0.8]]
    """
    _checks.rank(rank)
    _checks.in_range("rate", rate, 0.0)

    def grow(rows: Any, gradient: Any, step: Any, count: jax.Array) -> Any:
        del count
        taken = step if of_updates else gradient
        size = jnp.sqrt(_tree.dot(taken, taken))
        per_length = _tree.inverse(size)
        unit = _tree.scale(per_length, taken)
        filled = jnp.diag(_coefficients(rows, rows, rank)) > 0.5
        added = _tree.as_type(size.dtype, rate)[0] * _tree.project(rows, unit, rank)
        added = jnp.where(jnp.arange(rank) == jnp.sum(filled), 1.0, added)

        def pull(r: jax.Array, x: jax.Array) -> jax.Array:
            return r + jnp.expand_dims(added.astype(r.dtype), range(1, r.ndim)) * x[None]

        return orthonormal(jax.tree.map(pull, rows, unit), rank)

    return _track(
        rank, decay, lambda params: _tree.empty_rows(params, rank), lambda rows: rows, grow
    )


def track_fixed(directions: Any, *, decay: float = 0.9) -> optax.GradientTransformationExtraArgs:
    r"""Samples the loss along directions that the user knows to matter.

    Args:
      directions: like the parameters, with a leading axis of length k; orthonormalised in
        that order.
      decay: as in :func:`track_averages`.

    Returns:
      A link from gradients to :class:`Span`, with the state of :func:`track_averages`.

    Raises:
      ValueError: the leaves have no common leading axis, or, at init, are not like the
        parameters beside it; otherwise as :func:`track_averages` does.
      TypeError: as :func:`track_averages` does.

    Source:
      This package.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> tracker = po.track_fixed(jnp.array([[3.0, 4.0]]))
      >>> params = jnp.array([1.0, -2.0])
      >>> span, _ = tracker.update(jnp.array([5.0, 0.0]), tracker.init(params), params)
      >>> print(span.mean_slope)
      [3.]
    """
    ranks = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(directions)}
    if len(ranks) != 1 or () in ranks:
        raise ValueError("every leaf of directions needs the same leading axis, one row each.")
    ((rank,),) = ranks

    def begin(params: Any) -> Any:
        like = jax.tree.structure(params) == jax.tree.structure(directions)
        pairs = zip(jax.tree.leaves(directions), jax.tree.leaves(params), strict=like)
        if not like or any(jnp.shape(row)[1:] != leaf.shape for row, leaf in pairs):
            raise ValueError("directions must be like the parameters, beside the leading axis.")
        rows = jax.tree.map(lambda r, p: jnp.array(r, p.dtype), directions, params)
        return orthonormal(rows, rank)

    return _track(rank, decay, begin, lambda rows: rows, lambda rows, *_: rows)
