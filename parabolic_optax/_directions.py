"""Direction trackers: gradients in, a :class:`Sample` out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _age, _checks, _layout, _rounding, _tree
from parabolic_optax._types import Per, Radial, Sample, link

# Gradients are normalized by a mean of their squares that forgets them in 1,000 steps. Those that
# vanish at a minimum then still shorten the steps; with a short memory they keep their length, and
# the steps jump to and fro across a valley.
_DECAY = 0.999
# No square counts in it with more than this many times the mean: from step 1,000 on one outlier
# moves the scale by a twentieth, in earlier ones by a factor of up to sqrt(1 + 99 / t).
_OUTLIER = 100.0
# Gradients of smaller root mean square are mostly rounding, such as those of a bias before a
# normalisation; optax's Adam has the same number in that place.
_LEAST = 1e-8


class TrackDisplacementState(NamedTuple):
    """State of :func:`track_displacement`.

    Attributes:
      base: state of the base direction.
      anchor: slow running mean of the parameters, the origin of the positions.
      tail: running mean of the recent parameters for evaluation; None where not kept.
      gradient_square: running mean of the mean squares of the gradients, squared gradient units;
        float32 of shape [n], or None where they are not normalized.
      lag: whether the tail lags behind, and, without a window, what is forgotten for that; zeros
        where no tail is kept.
      count: number of steps taken, int32 scalar.
      skipped: number of steps whose gradient was zero, or an inner product not finite;
        int32 scalar.
    """

    base: Any
    anchor: Any
    tail: Any
    gradient_square: jax.Array | None
    lag: _age.Lag
    count: jax.Array
    skipped: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {
            "count": self.count,
            "skipped": self.skipped,
            "forgotten": self.lag.forgotten.astype(self.count.dtype),
        }

    def restart(self) -> "TrackDisplacementState":
        statistics = (self.gradient_square, self.lag, self.count)
        square, lag, count = jax.tree.map(jnp.zeros_like, statistics)
        return self._replace(gradient_square=square, lag=lag, count=count)


class _Seen(NamedTuple):
    """What a step learns before the base moves, and the means after it.

    Attributes:
      usable: as in :class:`Sample`.
      stride: the same.
      products: inner products, of shape [k, m], m as in :class:`Radial`, in the order <g, D>,
        <D, D>, <g, y>, <D, y> (both only with `radial`), <y, y>, <g, theta - y> (only with a
        tail), -<g, g>. All but the last are 0 between samples.
      rounded: what rounding the means has added to the squared displacements, of shape [n], or
        None where they are not rounded.
      anchor: the slow mean.
      tail: the fast one, or None.
    """

    usable: jax.Array
    stride: jax.Array
    products: jax.Array
    rounded: jax.Array | None
    anchor: Any
    tail: Any


def displacement_kernel(slope_dot: jax.Array, square: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slope along the unit displacement and length of the displacement, one parabola.

    Args:
      slope_dot: <g, D>, scalar.
      square: <D, D>, scalar.

    Returns:
      (<g, D> / |D|, |D|), and (0, 0) where the displacement is zero.
    """
    length = _tree.root(square)
    return _tree.ratio(slope_dot, length), length


def gradient_size_kernel(
    square: jax.Array, mean: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the gradient is divided by, and the running mean of its square, one parabola.

    Args:
      square: mean square of the entries of the gradient, scalar.
      mean: running mean of it before, 0 where nothing was seen yet; scalar.
      weight: of this sample in the mean, scalar.

    Returns:
      max(sqrt(v), sqrt(square), 1e-8) and v, the mean with min(square, 100 mean) taken in, or the
      square alone where it is the first that is not zero.
    """
    counted = jnp.minimum(square, _OUTLIER * mean)
    fitted = jnp.where(mean > 0.0, (1.0 - weight) * mean + weight * counted, square)
    return jnp.maximum(_tree.root(jnp.maximum(fitted, square)), _LEAST), fitted


def track_displacement(
    base: optax.GradientTransformation,
    *,
    anchor_power: float = 0.5,
    tail_power: float | None = 9.0,
    tail_share: float | jax.Array = 0.7,
    window: float | jax.Array | None = None,
    per: Per = "tensor",
    mean_dtype: Any = None,
    radial: bool = False,
    normalize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the slow motion of the parameters: away from their running mean.

    The direction of each parabola is :math:`d_t = D_t / |D_t|` with

    .. math::
      D_t = (1 - c)\,\theta_t + c\,\bar y_t - \bar\theta_t

    where :math:`\bar\theta` is a mean over much of the run, the anchor, and :math:`\bar y`
    one over its last part, the tail, which is what a user evaluates. Its slope is
    :math:`\langle g_t, d_t \rangle` and its position :math:`|D_t|`. All three points were
    fixed before the noise of :math:`g_t` was drawn, so the slope is unbiased. At
    :math:`c = 0` it vanishes where the parameters themselves make no more progress, which is
    too early where their mean is read out: most of their noise is not in it.

    Both means are polynomial-decay averages: they look back over a fixed fraction, about
    :math:`1/(p+1)`, of the run so far, whatever the horizon. Positions are read
    from ``params``, so whatever stands further down the chain is seen by the model.

    Where the problem changes they would follow too late. That can be seen from one more slope, on
    the way from the tail to the parameters. At a minimum the loss rises on it, since most of the
    noise is not in the tail. Where it falls, the tail lags behind, and the start of the run is
    forgotten:

    .. math::
      r_t = \langle g_t, \theta_t - \bar y_t \rangle, \qquad
      \psi = E[r] / E|r|, \qquad
      f_{t+1} = \min(f_t + \max(1 - 8 \psi, 0),\ \max(t - 300, 0))

    The means, here and in the links behind, and the rates at which step sizes change, go by the
    :math:`t - f_t` steps that are left, the age of the run. Where minibatches are drawn from the
    same data :math:`\psi` is nearly 1 after the first few hundred steps, and little or nothing is
    forgotten. Where gradients are exact the loss may fall that way for long, and the start of the
    run is forgotten as well.

    The longer the run, the less a single step tells about it. Every step is a sample until step
    2,047, then one of three until step 4,095, and so on until one of nine from step 8,192 on, at
    changing places, since minibatches may come in a fixed order (at the same ones with
    `mean_dtype`). A sample stands for as many steps, in the means as well; the steps between cost
    little more than the base's. (From step 81,920 on samples become rarer still, since float32
    would round their weight away.)

    Args:
      base: any optax direction that points like the gradient, such as
        ``optax.scale_by_adam()``. It sees gradients and parameters in at least float32, and every
        extra argument.
      anchor_power: :math:`p` of the running mean the displacement is measured from.
      tail_power: :math:`p` of the second mean, which :func:`parabolic_optax.eval_params`
        returns; 9 averages the last tenth. None keeps no second mean and saves its memory.
      tail_share: :math:`c`, in [0, 1]. Without a second mean it is 0.
      window: number of steps beyond which the run counts as no longer, in place of what is found:
        samples keep the weight that they have at that step, so that the means become exponential
        ones, of two thirds and a tenth of the window, and step sizes can go on changing as fast.
        Some hundreds at least, since a mean has to be longer than the noise; up to 2,047 every step
        is a sample for ever. None finds it, where a tail is kept; with 1e9 nothing is forgotten.
      per: granularity of the parabolas, as in :func:`parabolic`.
      mean_dtype: None keeps both means in at least float32, ``jnp.bfloat16`` (or its name) in
        half of that, rounded up or down by chance: right on average, and off by one to three
        units in the last of 8 bits. The part of this in the positions is taken out as far as
        it is known. Leaves of less than 1,024 numbers, and complex ones, keep wide means.
      radial: whether to take the inner products with the mean that is read out as well, which
        :func:`decay_outward` needs: two more in the same pass.
      normalize: whether the base sees the gradients of each parabola over their own size:

        .. math::
          v_t = v_{t-1} + w_t \left( \min(q_t, 100\,v_{t-1}) - v_{t-1} \right), \qquad
          g_t \leftarrow \frac{g_t}{\max(\sqrt{v_t}, \sqrt{q_t}, 10^{-8})}

        with :math:`q_t` the mean square of their entries and
        :math:`w_t = \max(1/1000, 1/t)`. Raw gradients differ in size from tensor to tensor, by
        orders of magnitude where a network is badly initialised, and from step to step, where an
        outlier is drawn or a steep wall is met. These have a root mean square of at most 1, near
        1 while they keep their size, and the direction within a tensor is that of the gradient.
        The squares are taken anyway, so this costs one number per parabola.

    Returns:
      A link whose update returns a :class:`Sample`. Its state holds one buffer like the
      parameters beside the base's, of `mean_dtype`, and one more for the tail.

    Raises:
      TypeError: the base is not a gradient transformation; a constant is not a number;
        `mean_dtype` is no type; at init, a parameter is not of a floating type of at least 16 bits.
      ValueError: a constant is out of range; `mean_dtype` is another type; at init, `per` is
        impossible; in the update, ``params`` is missing or does not match the gradients.

    Source:
      This package; polynomial-decay averages are due to Shamir and Zhang, ICML 2013; one mean
      square per block to Ginsburg et al., arXiv:1905.11286, and Zhang et al., arXiv:2406.16793.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> tracker = po.track_displacement(optax.scale_by_adam())
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> state = tracker.init(params)
      >>> _, state = tracker.update({"w": jnp.array([1.0, 0.0])}, state, params)
      >>> moved = {"w": jnp.array([1.0, -5.0])}
      >>> sample, state = tracker.update({"w": jnp.array([4.0, 2.0])}, state, moved)
      >>> print(sample.slope, sample.position.round(2))
      [-2.] [2.81]
    """
    _checks.direction(base)
    _checks.in_range("anchor_power", anchor_power, 0.0)
    if tail_power is not None:
        _checks.in_range("tail_power", tail_power, 0.0)
    _checks.in_range("tail_share", tail_share, 0.0, 1.0)
    if window is not None:
        _checks.in_range("window", window, 2.0)
    if mean_dtype is not None and jnp.dtype(mean_dtype) != jnp.bfloat16:
        raise ValueError(
            "mean_dtype must be None, for at least float32, or jnp.bfloat16;"
            f" got {jnp.dtype(mean_dtype)}."
        )
    base = optax.with_extra_args_support(base)
    looks_ahead = tail_power is not None

    def init(params: Any) -> TrackDisplacementState:
        _checks.floating(params)
        layout = _layout.Layout.of(params, per)

        def mean() -> Any:
            return _rounding.narrow(_tree.wide_copy(params), mean_dtype)

        return TrackDisplacementState(
            base=base.init(_tree.widen(params)),
            anchor=mean(),
            tail=None if tail_power is None else mean(),
            gradient_square=jnp.zeros(layout.size, jnp.float32) if normalize else None,
            lag=_age.Lag.none(),
            count=jnp.zeros([], jnp.int32),
            skipped=jnp.zeros([], jnp.int32),
        )

    def update(
        updates: Any, state: TrackDisplacementState, params: Any = None, **extra_args: Any
    ) -> tuple[Sample, TrackDisplacementState]:
        _checks.match(updates, params)
        updates, params = _tree.arrays((updates, params))
        layout = _layout.Layout.of(params, per)
        count = _tree.next_count(state.count)

        # One more inner product instead of a look at every entry. It also sees gradients so
        # large that no square of theirs is a number, which would poison the base. A gradient
        # of zero says nothing about the step size, and Muon would go on at full length.
        def squares() -> tuple[Any, Any]:
            # Negative, because Adam needs the squares as well: XLA would store them for both.
            return updates, jax.tree.map(jnp.negative, updates)

        age = state.lag.age(count) if window is None else _age.within(count, window)
        stride = _age.stride(age)
        # The dice that round means go on with the count, and would depend on places that do too:
        # late in a run the means would be off by several per cent of the way.
        due = _age.due(count, stride) if mean_dtype is None else jax.lax.rem(count, stride) == 0

        def look(anchor: Any, tail: Any) -> _Seen:
            def begun(mean: Any) -> Any:
                # At the first step after a restart, what is kept belongs to the forgotten past.
                wide = _tree.widen(mean)
                return _tree.where(count == 1, jax.tree.map(_tree.as_like, params, wide), wide)

            origin, weight = begun(anchor), _weight(stride, age, anchor_power)
            means, share, point = (_pull(origin, params, weight), None), 0.0, params
            displacement = jax.tree.map(lambda p, a: p.astype(a.dtype) - a, params, origin)
            if tail_power is not None:
                point, weight = begun(tail), _weight(stride, age, tail_power)
                # From the tail before this sample: XLA would store the one after it on the way.
                share = _tree.as_float32(tail_share)[0] * (1.0 - weight)
                displacement = jax.tree.map(
                    lambda d, y, p: d + share.astype(d.dtype) * (y - p.astype(y.dtype)),
                    displacement,
                    point,
                    params,
                )
                means = (means[0], _pull(point, params, weight))
            pairs = [(updates, displacement), (displacement, displacement)]
            if radial:
                pairs += [(updates, point), (displacement, point)]
            pairs.append((point, point))
            if looks_ahead:
                ahead = jax.tree.map(lambda p, y: p.astype(y.dtype) - y, params, point)
                pairs.append((updates, ahead))
            products = layout.apart.inners(*pairs, squares())
            # The loops that write have to wait for all inner products. Where they need not, XLA for
            # CPUs copies what they overwrite, and XLA for GPUs puts the sums into them, and
            # a loop that also reduces is slower than one more that only reads.
            sums = jnp.sum(jnp.abs(products[:-1]))
            usable = _tree.informative(-jnp.sum(products[-1])) & jnp.isfinite(sums)
            rounded = None
            if mean_dtype is not None:
                rounded = (1.0 + share**2) * layout.inner(*_rounding.distances(params, anchor))
                means = tuple(
                    _rounding.rounded(mean, kept, count, mean=n)
                    for n, (mean, kept) in enumerate(zip(means, (anchor, tail), strict=True))
                )
            stands_for = jnp.where(usable, stride, 0).astype(jnp.float32)
            kept = _tree.where(usable, means, (anchor, tail))
            return _Seen(usable, stands_for, products, rounded, *kept)

        def pass_by(anchor: Any, tail: Any) -> _Seen:
            minus_squares = layout.apart.inner(*squares())
            usable = _tree.informative(-jnp.sum(minus_squares))
            none = jnp.zeros_like(minus_squares)
            others = [none] * (3 + (2 if radial else 0) + (1 if looks_ahead else 0))
            products = jnp.stack([*others, minus_squares])
            rounded = None if mean_dtype is None else layout.pooled(none)
            return _Seen(usable, jnp.sum(none), products, rounded, anchor, tail)

        seen = _tree.branch(due, look, pass_by, state.anchor, state.tail)
        skipped = jnp.where(seen.usable, state.skipped, _tree.next_count(state.skipped))
        # Read back from a number that is kept. What is not kept, here a sum over all tensors,
        # XLA computes anew in every loop over a tensor: quadratic work, also for the compiler.
        usable = skipped == state.skipped
        # What is not a number is not seen. Means in which it has no weight then stay as they are.
        products = jnp.where(usable, seen.products, 0.0)
        slope_dot, square, *with_point = products[: 5 if radial else 3]
        square, squares_of_gradient = layout.pooled(square), -products[-1]
        slope, length = jax.vmap(displacement_kernel)(layout.pooled(slope_dot), square)
        # Rounding would end the search for the scale before it begins.
        position = length
        if seen.rounded is not None:
            position = _tree.root(square - jnp.where(usable, seen.rounded, 0.0))
        about_point = None
        if radial:
            driven, along = squares_of_gradient > 0.0, jnp.sum(slope_dot)
            about_point = Radial(jnp.stack(with_point), length, driven, along)

        gradient_square, size = state.gradient_square, jnp.ones(layout.size, jnp.float32)
        if gradient_square is not None:
            size, fitted = jax.vmap(gradient_size_kernel, in_axes=(0, 0, None))(
                layout.pooled(squares_of_gradient) / layout.entries(params),
                gradient_square,
                _tree.recent_weight(age, _DECAY, jnp.float32),
            )
            gradient_square = jnp.where(usable, fitted, gradient_square)

        def go(base_state: Any) -> tuple[Any, Any]:
            # In at least float32, also where the parameters are narrower: a running mean in
            # bfloat16 stands still, and squares in float16 vanish.
            wide_params = _tree.widen(params)
            grads = jax.tree.map(_tree.as_like, updates, wide_params)
            if normalize:
                shares = layout.spread(1.0 / size, updates)
                grads = jax.tree.map(lambda g, share: (share * g).astype(g.dtype), grads, shares)
            direction, base_state = base.update(grads, base_state, wide_params, **extra_args)
            return jax.tree.map(jnp.negative, direction), base_state

        def stay(base_state: Any) -> tuple[Any, Any]:
            direction, moved = jax.eval_shape(go, base_state)
            # A base may change the types of its state in its first step.
            return (
                jax.tree.map(jnp.zeros_like, direction),
                jax.tree.map(lambda s, like: jnp.asarray(s, like.dtype), base_state, moved),
            )

        update, base_state = _tree.choose(usable, go, stay, state.base)
        lag = state.lag
        if looks_ahead:
            lag = lag.after(jnp.sum(products[-2]), seen.stride, age)
            if window is None:
                lag = lag.forgetting(seen.stride, count)
        sample = Sample(
            update=update,
            slope=slope,
            position=position,
            count=count,
            age=age,
            stride=seen.stride,
            usable=usable,
            norm=_tree.root(layout.square(with_point[-1], params)),
            radial=about_point,
            settled=lag.signal() if looks_ahead else None,
        )
        return sample, TrackDisplacementState(
            base=base_state,
            anchor=seen.anchor,
            tail=seen.tail,
            gradient_square=gradient_square,
            lag=lag,
            count=jnp.where(usable, count, state.count),
            skipped=skipped,
        )

    return link(init, update)


def _weight(stride: jax.Array, count: jax.Array, power: float | jax.Array) -> jax.Array:
    return _tree.sample_weight(stride.astype(jnp.float32), count, power)


def _pull(mean: Any, params: Any, weight: jax.Array) -> Any:
    return jax.tree.map(
        lambda m, p: m + weight.astype(m.dtype) * (p.astype(m.dtype) - m), mean, params
    )
