"""Direction tracker of the OGR family: the span of the newest displacements, orthonormal."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._types import Secants, link

# The gate closes when noise is more than this fraction of a squared gradient change.
_TOLERATED_NOISE = 0.04
# Weight of the newest step in the doubt that moves the gate.
_DOUBT_WEIGHT = 0.2
# Sample of the first probe. Easy problems are over before it; under noise seven steps inside
# the trust radius do no harm.
_FIRST_PROBE = 8
# The second probe; later ones follow at twice the number of samples.
_SECOND_PROBE = 64
_NEVER = jnp.iinfo(jnp.int32).max

# Largest ratio of the curvature outside the span to |y| / |s| of the newest secant.
_STIFFEST = 1.5
# Of that curvature, after a step too short to be judged.
_SOFTER = 0.25


class Pairs(NamedTuple):
    """k orthonormal directions with their images, in the notation of :class:`Secants`.

    Attributes:
      directions: rows Q.
      images: rows W.
      matrix: [Q_i . W_j].
      frame: coefficients of the displacements by age, newest first; rows beyond `used` are 0.
      used: number of rows that are filled, int32 scalar.
    """

    directions: Any
    images: Any
    matrix: jax.Array
    frame: jax.Array
    used: jax.Array

    @classmethod
    def empty(cls, params: Any, rank: int) -> "Pairs":
        dtype = _tree.real_type(params)
        return cls(
            directions=_tree.empty_rows(params, rank),
            images=_tree.empty_rows(params, rank),
            matrix=jnp.zeros((rank, rank), dtype),
            frame=jnp.zeros((rank, rank), dtype),
            used=jnp.zeros([], jnp.int32),
        )


class TrackSecantsState(NamedTuple):
    """State of :func:`track_secants`.

    Attributes:
      pairs: the directions and what is known about them.
      base: the base point, parameters of the last step that was kept.
      gradient: the gradient there.
      stretch: curvature scale outside the span.
      probing: whether the last step was a probe, bool scalar.
      next_probe: number of the sample at which the next probe is due, int32 scalar.
      noise: squared difference of two gradients at one point, from the last probe.
      doubt: running mean of noise over squared gradient change.
      count: number of samples taken, int32 scalar.
      returned: number of steps that were taken back, int32 scalar.
      skipped: number of steps whose gradient was zero or not finite, int32 scalar.
      lost: whether the last gradient was not finite, bool scalar.
    """

    pairs: Pairs
    base: Any
    gradient: Any
    stretch: jax.Array
    probing: jax.Array
    next_probe: jax.Array
    noise: jax.Array
    doubt: jax.Array
    count: jax.Array
    returned: jax.Array
    skipped: jax.Array
    lost: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {
            "count": self.count,
            "skipped": self.skipped,
            "returned": self.returned,
            "doubt": self.doubt,
            "second_order": self.reliable.astype(self.doubt.dtype),
        }

    def restart(self) -> "TrackSecantsState":
        never = jnp.asarray(self.next_probe) == _NEVER
        # Gradients of before and after are of two problems, and so say nothing about noise.
        forgotten = {
            name: jnp.zeros_like(getattr(self, name))
            for name in ("stretch", "probing", "noise", "doubt", "count", "lost")
        }
        return self._replace(
            pairs=jax.tree.map(jnp.zeros_like, self.pairs),
            next_probe=jnp.where(never, self.next_probe, _FIRST_PROBE),
            **forgotten,
        )

    @property
    def reliable(self) -> jax.Array:
        """Whether the gradients are accurate enough for second-order steps, bool scalar."""
        # A framework's variable does not compare; its array does.
        return jnp.asarray(self.doubt) <= _TOLERATED_NOISE


def age_frame(frame: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Gram-Schmidt of [newest displacement, rows of the frame], in coefficient space.

    Args:
      frame: orthonormal rows by age, [n, n].
      coefficients: the newest displacement, of any length, in the same basis, [n].

    Returns:
      Orthonormal rows, [n, n]: row 0 along the newest displacement, row i + 1 what is left
      of row i. From where the displacement is used up, rows keep their places. Row 0 of a
      displacement of length 0 is 0.
    """
    parts = frame @ coefficients
    # tail[i] is the length of what is left of the displacement after the first i rows.
    tail = jnp.sqrt(jnp.cumsum((parts**2)[::-1])[::-1])
    rest = jnp.cumsum((parts[:, None] * frame)[::-1], axis=0)[::-1]
    left = tail[1:] > jnp.finfo(tail.dtype).eps * tail[0]
    safe = jnp.where(left, tail[1:], 1.0)
    turned = safe[:, None] * frame[:-1] - (parts[:-1] / safe)[:, None] * rest[1:]
    turned = turned / jnp.where(left, tail[:-1], 1.0)[:, None]
    kept = jnp.where(left[:, None], turned, frame[1:])
    return jnp.concatenate([_tree.inverse(tail[0]) * rest[:1], kept])


def attribute(frame: jax.Array, coefficients: jax.Array, tolerance: float | jax.Array) -> jax.Array:
    """Which direction is to blame for a secant that the images do not reproduce, [k].

    The oldest one that has a share in the unit displacement: b with b . coefficients = 1,
    so that W_j += b_j (y - sum_i c_i W_i) satisfies the newest secant, and leaves the
    newer ones as they are.
    """
    parts = frame @ coefficients
    shares = jnp.abs(parts) > tolerance
    oldest = parts.shape[0] - 1 - jnp.argmax(shares[::-1])
    return jnp.where(
        jnp.any(shares), frame[oldest] / jnp.where(shares[oldest], parts[oldest], 1), 0
    )


def insert(pairs: Pairs, displacement: Any, change: Any, tolerance: float | jax.Array) -> Pairs:
    """Takes in one secant pair of unit displacement; drops the oldest direction if full.

    Only vectors of length k and matrices of size k x k are worked on beside inner products
    and sums of rows, so the cost is O(k D).
    """
    rank = pairs.frame.shape[0]
    dtype = pairs.frame.dtype
    (tolerance,) = _tree.as_type(dtype, tolerance)
    inside = _tree.project(pairs.directions, displacement, rank)
    residual = _tree.axpy(-1.0, _tree.combine(inside, pairs.directions), displacement)
    # The second pass makes the residual orthogonal to rounding ("twice is enough").
    again = _tree.project(pairs.directions, residual, rank)
    residual = _tree.axpy(-1.0, _tree.combine(again, pairs.directions), residual)
    inside = inside + again
    unexplained = _tree.axpy(-1.0, _tree.combine(inside, pairs.images), change)
    # Inner products that wait for no other one are sent together where parameters are cut over
    # devices; so lengths are divided by afterwards.
    outside = jnp.sqrt(_tree.dot(residual, residual))
    left_open = _tree.project(pairs.directions, unexplained, rank)
    of_images = _tree.project(pairs.images, residual, rank)
    own = _tree.dot(residual, unexplained)

    fresh = outside > tolerance
    share = _tree.inverse(jnp.where(fresh, outside, 0.0))
    direction, image = _tree.scale(share, residual), _tree.scale(share, unexplained)
    blame = jnp.where(fresh, 0.0, attribute(pairs.frame, inside, tolerance))
    images = _add_outer(pairs.images, blame, unexplained)

    matrix = jnp.zeros((rank + 1, rank + 1), dtype)
    matrix = matrix.at[:rank, :rank].set(pairs.matrix + jnp.outer(left_open, blame))
    matrix = matrix.at[:rank, rank].set(share * left_open)
    matrix = matrix.at[rank, :rank].set(share * of_images)
    matrix = matrix.at[rank, rank].set(share**2 * own)

    frame = jnp.eye(rank + 1, dtype=dtype).at[:rank, :rank].set(pairs.frame)
    # A displacement inside the span has no share in the extra row, which then stays the last.
    frame = age_frame(frame, jnp.append(inside, jnp.where(fresh, outside, 0.0)))
    full = pairs.used >= rank
    spare = jnp.where(jnp.arange(rank + 1) == jnp.minimum(pairs.used, rank), 1.0, 0.0)
    drop = jnp.where(full, frame[-1], spare.astype(dtype))
    mirror = jnp.where(fresh, _mirror_to_last(drop), 0.0)

    def reflect(rows: Any, last: Any) -> Any:
        along = _tree.axpy(mirror[-1], last, _tree.combine(mirror[:-1], rows))
        return _add_outer(rows, -2.0 * mirror[:-1], along)

    reflection = jnp.eye(rank + 1, dtype=dtype) - 2.0 * jnp.outer(mirror, mirror)
    return Pairs(
        directions=reflect(pairs.directions, direction),
        images=reflect(images, image),
        matrix=(reflection @ matrix @ reflection)[:rank, :rank],
        frame=(frame @ reflection)[:rank, :rank],
        used=jnp.where(fresh & ~full, pairs.used + 1, pairs.used),
    )


def _mirror_to_last(unit: jax.Array) -> jax.Array:
    """Unit normal of the Householder reflection that takes `unit` to the last axis."""
    normal = unit.at[-1].add(jnp.where(unit[-1] < 0.0, -1.0, 1.0))
    return normal / jnp.sqrt(jnp.sum(normal**2))


def _add_outer(rows: Any, coefficients: jax.Array, vector: Any) -> Any:
    return jax.tree.map(
        lambda r, v: r + jnp.expand_dims(coefficients.astype(r.dtype), range(1, r.ndim)) * v[None],
        rows,
        vector,
    )


def track_secants(
    rank: int = 10, *, tolerance: float = 1e-3, probe: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the span of the newest displacements, and the gradient changes along it.

    Every step gives a secant pair: the displacement :math:`s = \theta - \theta_b` from the
    base point, and the gradient change :math:`y = g - g_b`; on a quadratic :math:`y = Hs`.
    The link keeps k orthonormal directions Q, which span the newest displacements, and
    their images :math:`W \approx QH`. A displacement outside the span adds a direction,
    with the image :math:`(y - W^T c) / |s - Q^T c|`, :math:`c = Qs`, and the oldest
    direction goes, by one Householder reflection. One inside the span corrects the image of
    the oldest direction that has a share in it. The newest secants therefore hold exactly.

    The base point is the last point that was not worse than its predecessor, judged by
    gradients alone: the loss changed by :math:`\tfrac12 (g_b + g) \cdot s` (trapezoidal
    rule). After an increase the next step starts from the base point again, and the pair
    is kept. A sample whose gradient is zero or not finite is left out and counted. Where it
    is not finite twice in a row, the parameters go back to the base point.

    Noise is measured by probes: a step of length zero gives a second gradient at the same
    point, and the difference of the two is noise and nothing else. It is exactly zero for a
    deterministic loss. Probes are at samples 8, 64, 128, 256 and so on.
    The record is marked unreliable while the squared noise is more than 4 % of |y|^2.

    Args:
      rank: k, largest number of directions, static.
      tolerance: a unit displacement adds a direction if its part outside the span is longer.
      probe: whether to ask for probes; without them gradients are taken to be exact.

    Returns:
      A link from gradients to :class:`Secants`. State: 2k + 2 buffers like the parameters,
      in at least float32.

    Raises:
      ValueError: rank is less than 1, or `tolerance` is out of range; in the update,
        ``params`` is missing or does not match the gradients.
      TypeError: `rank` is not an integer, or `tolerance` not a number; at init, a parameter is not
        of a floating type of at least 16 bits.

    Source:
      This package; the regression of gradients on positions in a few directions is due to
      Duda, arXiv:1901.11457.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> tracker = po.track_secants(rank=1)
      >>> gradient = lambda p: jnp.array([2.0, 8.0]) * (p - jnp.array([1.0, -1.0]))
      >>> state = tracker.init(jnp.array([3.0, 0.5]))
      >>> for p in (jnp.array([3.0, 0.5]), jnp.array([3.0, 0.25])):
      ...     secants, state = tracker.update(gradient(p), state, p)
      >>> print(abs(secants.directions).round(3), secants.matrix.round(3))
      [[0. 1.]] [[8.]]
    """
    _checks.rank(rank)
    _checks.in_range("tolerance", tolerance, 0.0, 1.0)

    def init(params: Any) -> TrackSecantsState:
        _checks.floating(params)
        base = _tree.wide_copy(params)
        zero = jnp.zeros([], jnp.int32)
        return TrackSecantsState(
            pairs=Pairs.empty(base, rank),
            base=base,
            gradient=jax.tree.map(jnp.zeros_like, base),
            stretch=jnp.zeros([], _tree.real_type(base)),
            probing=jnp.array(False),
            next_probe=jnp.full([], _FIRST_PROBE if probe else _NEVER, jnp.int32),
            noise=jnp.zeros([], _tree.real_type(base)),
            doubt=jnp.zeros([], _tree.real_type(base)),
            count=zero + 0,
            returned=zero + 0,
            skipped=zero + 0,
            lost=jnp.array(False),
        )

    def update(
        updates: Any, state: TrackSecantsState, params: Any = None, **extra_args: Any
    ) -> tuple[Secants, TrackSecantsState]:
        del extra_args
        point, gradient, square = _tree.observe(updates, params, state.base)
        finite, good = jnp.isfinite(square), _tree.informative(square)
        # The base point of a fresh state belongs to no gradient.
        first = state.count == 0
        step = jax.tree.map(lambda x, b: jnp.where(first, 0.0, x - b), point, state.base)
        rise = _tree.axpy(-1.0, state.gradient, gradient)
        moved = jnp.sqrt(_tree.dot(step, step))
        change = 0.5 * (_tree.dot(state.gradient, step) + _tree.dot(gradient, step))
        kept = first | (change <= 0.0) | ~state.reliable

        # A step of a few roundings of the parameters says nothing about the curvature.
        scale = jnp.sqrt(_tree.dot(point, point))
        eps = jnp.finfo(moved.dtype).eps
        judged = good & (moved > 8.0 * eps * scale)
        # Beside the curvature of a cliff those in front of it would be lost in rounding.
        cliff = ~kept & (eps * square > _tree.dot(state.gradient, state.gradient))
        usable = judged & ~cliff
        per_length = 1.0 / jnp.where(usable, moved, 1.0)
        unit, slope = _tree.scale(per_length, step), _tree.scale(per_length, rise)
        pairs = _tree.where(usable, insert(state.pairs, unit, slope, tolerance), state.pairs)
        size, along = jnp.sqrt(_tree.dot(slope, slope)), jnp.abs(_tree.dot(slope, unit))
        # |y|^2 / |s.y| is a curvature that favours the stiff directions; it has no bound
        # where the secant sees no curvature along itself.
        stretch = size * jnp.minimum(size / jnp.where(along > 0.0, along, 1.0), _STIFFEST)
        stretch = jnp.where(usable & (along > 0.0), stretch, state.stretch)
        # On a plateau below a cliff the curvature of the cliff would hold the steps at nothing.
        stuck = good & ~judged & ~first & ~state.probing
        # Up to a step as long as the parameters; a slope that is flatter still is rounding.
        stuck = stuck & (stretch * scale > jnp.sqrt(square))
        stretch = jnp.where(stuck, _SOFTER * stretch, stretch)

        noise, doubt = _assess(state, _tree.dot(rise, rise), square, moved)
        count = _tree.next_count(state.count)
        probing = kept & (count >= state.next_probe) & (state.next_probe < _NEVER)
        due = jnp.where(count < _NEVER // 2, jnp.maximum(_SECOND_PROBE, 2 * count), _NEVER)
        forward = good & kept
        new = TrackSecantsState(
            pairs=pairs,
            base=_tree.where(forward, point, state.base),
            gradient=_tree.where(forward, gradient, state.gradient),
            stretch=stretch,
            probing=probing,
            next_probe=jnp.where(probing, due, state.next_probe),
            noise=noise,
            doubt=doubt,
            count=count,
            returned=jnp.where(kept, state.returned, _tree.next_count(state.returned)),
            skipped=state.skipped,
            lost=jnp.zeros_like(state.lost),
        )
        skipped = _tree.next_count(state.skipped)
        new = _tree.where(good, new, state._replace(skipped=skipped, lost=~finite))
        # One gradient that is not finite may be a fault of the data; two are the place's.
        fled = ~finite & state.lost & state.reliable & ~first
        back = jnp.where(good, ~kept, fled)
        secants = Secants(
            directions=pairs.directions,
            images=pairs.images,
            matrix=pairs.matrix,
            frame=pairs.frame,
            stretch=stretch,
            gradient=new.gradient,
            recoil=jax.tree.map(lambda b, x: jnp.where(back, b - x, 0.0), new.base, point),
            # Only a step that the model proposed can be held against it.
            moved=jnp.where((good | fled) & state.reliable & ~state.probing, moved, 0.0),
            change=change,
            scale=scale,
            probing=probing,
            usable=good,
        )
        return secants, new

    return link(init, update)


def _assess(
    state: TrackSecantsState, rise: jax.Array, square: jax.Array, moved: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Noise and doubt after a sample, from |g - g_b|^2, |g|^2 and the length of the step."""
    still = moved == 0.0
    measured = state.probing & still
    first = state.count < _SECOND_PROBE
    noise = jnp.where(measured, rise, state.noise)
    # A probe has no gradient change to compare the noise with; the first one takes the gradient.
    reference = jnp.where(measured, square, rise)
    fraction = jnp.where(noise > 0.0, noise / jnp.where(reference > 0.0, reference, 1.0), 0.0)
    weight = jnp.where(measured & first, 1.0, jnp.where(still, 0.0, _DOUBT_WEIGHT))
    return noise, state.doubt + weight * (fraction - state.doubt)
