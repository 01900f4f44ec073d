"""Direction trackers: gradients in, a :class:`Sample` out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _tree
from parabolic_optax._types import Per, Sample, link


class TrackDisplacementState(NamedTuple):
    """State of :func:`track_displacement`.

    Attributes:
      base: state of the base direction.
      anchor: slow running mean of the parameters, the origin of the positions.
      tail: running mean of the recent parameters for evaluation; None where not kept.
      count: number of samples taken, int32 scalar.
      skipped: number of steps whose gradient was not finite, int32 scalar.
    """

    base: Any
    anchor: Any
    tail: Any
    count: jax.Array
    skipped: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"count": self.count, "skipped": self.skipped}

    def restart(self) -> "TrackDisplacementState":
        return self._replace(count=jnp.zeros_like(self.count))


def displacement_kernel(slope_dot: jax.Array, square: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slope along the unit displacement and length of the displacement, one parabola.

    Args:
      slope_dot: <g, D>, scalar.
      square: <D, D>, scalar.

    Returns:
      (<g, D> / |D|, |D|), and (0, 0) where the displacement is zero.
    """
    length = jnp.sqrt(square)
    moved = length > 0.0
    return jnp.where(moved, slope_dot / jnp.where(moved, length, 1.0), 0.0), length


def track_displacement(
    base: optax.GradientTransformation,
    *,
    anchor_power: float = 0.5,
    tail_power: float | None = 9.0,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the displacement of the parameters from their running mean.

    The direction of each parabola is :math:`d_t = D_t / |D_t|` with
    :math:`D_t = \theta_t - \bar\theta_t`, the slow motion of the run; its slope is
    :math:`\langle g_t, d_t \rangle` and its position :math:`|D_t|`. Both
    :math:`\theta_t` and :math:`\bar\theta_t` were fixed before the noise of
    :math:`g_t` was drawn, so the slope is unbiased.

    :math:`\bar\theta` is a polynomial-decay average: it looks back over a fixed fraction,
    about :math:`1/(p+1)`, of the run so far, whatever the horizon. Positions are read
    from ``params``, so whatever stands further down the chain is seen by the model.

    Args:
      base: any optax direction that points like the gradient, such as
        ``optax.scale_by_adam()``. It sees the gradients and every extra argument.
      anchor_power: :math:`p` of the running mean the displacement is measured from.
      tail_power: power of a second mean, kept for :func:`parabolic_optax.eval_params`;
        9 averages the last tenth. None keeps no second mean and saves its memory.
      per: granularity of the parabolas.

    Returns:
      A link whose update returns a :class:`Sample`. Its state holds one buffer like the
      parameters beside the base's, in at least float32, and one more for the tail.

    Raises:
      TypeError: the base is not a gradient transformation; a parameter is not of
        floating type; a constant is not a number.
      ValueError: a constant is out of range; ``params`` is missing in the update; the
        gradients do not match the parameters.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> tracker = po.track_displacement(optax.scale_by_adam())
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> state = tracker.init(params)
      >>> _, state = tracker.update({"w": jnp.array([1.0, 0.0])}, state, params)
      >>> moved = {"w": jnp.array([1.0, -5.0])}
      >>> sample, state = tracker.update({"w": jnp.array([4.0, 2.0])}, state, moved)
      >>> print(sample.slope, sample.position)
      [-2.] [3.]
    """
    if not (callable(getattr(base, "init", None)) and callable(getattr(base, "update", None))):
        raise TypeError(
            "base must be an optax gradient transformation, such as optax.scale_by_adam();"
            f" got {base!r}."
        )
    _tree.check_range("anchor_power", anchor_power, 0.0)
    if tail_power is not None:
        _tree.check_range("tail_power", tail_power, 0.0)
    base = optax.with_extra_args_support(base)

    def init(params: Any) -> TrackDisplacementState:
        _tree.check_floating(params)
        _tree.Layout.of(params, per)
        return TrackDisplacementState(
            base=base.init(_strong(params)),
            anchor=_wide_copy(params),
            tail=None if tail_power is None else _wide_copy(params),
            count=jnp.zeros([], jnp.int32),
            skipped=jnp.zeros([], jnp.int32),
        )

    def update(
        updates: Any, state: TrackDisplacementState, params: Any = None, **extra_args: Any
    ) -> tuple[Sample, TrackDisplacementState]:
        _tree.check_match(updates, params)
        layout = _tree.Layout.of(params, per)
        finite = _tree.all_finite(updates)
        count = state.count + 1

        displacement = jax.tree.map(lambda p, a: p.astype(a.dtype) - a, params, state.anchor)
        slope, position = jax.vmap(displacement_kernel)(
            layout.inner(updates, displacement), layout.inner(displacement, displacement)
        )
        # The anchor of a restarted state belongs to the forgotten past.
        fresh = count == 1
        slope, position = jnp.where(fresh, 0.0, slope), jnp.where(fresh, 0.0, position)

        direction, base_state = base.update(
            _strong(updates), state.base, _strong(params), **extra_args
        )
        sample = Sample(
            update=jax.tree.map(lambda u: jnp.where(finite, -u, 0.0), direction),
            slope=slope,
            position=position,
            count=count,
            finite=finite,
        )
        tail = state.tail
        if tail_power is not None:
            tail = _pull(tail, params, _tree.polynomial_weight(count, tail_power))
        anchor = _pull(state.anchor, params, _tree.polynomial_weight(count, anchor_power))
        kept = state._replace(skipped=state.skipped + 1)
        moved = state._replace(base=base_state, anchor=anchor, tail=tail, count=count)
        return sample, _tree.where(finite, moved, kept)

    return link(init, update)


def _pull(mean: Any, params: Any, weight: jax.Array) -> Any:
    return jax.tree.map(
        lambda m, p: m + weight.astype(m.dtype) * (p.astype(m.dtype) - m), mean, params
    )


def _wide_copy(params: Any) -> Any:
    # A true copy even where the type is wide already: donated parameters must not alias state.
    return jax.tree.map(
        lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32), copy=True), params
    )


def _strong(tree: Any) -> Any:
    # Parameters made of Python numbers are weakly typed; a base would hand that on to its
    # state, whose type would then change with the first step and be traced again.
    return jax.tree.map(lambda x: x.astype(x.dtype), tree)
