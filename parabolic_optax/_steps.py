"""Step-size rules: a :class:`Parabola` in, updates out."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _decay, _layout, _tree
from parabolic_optax._types import Parabola, Per, Sample, link

# The search for the scale ends where the parameters have moved by this fraction of their
# norm: far below what changes a network, far above the resolution of float32.
_REACH = 3e-3
# Least norm that matrices are taken to have at init, in that of matrices with orthonormal rows or
# columns. Usual initialisations give them half of that or more, so nothing changes for them; and
# it is so small that Adam's first steps stay below its usual rate.
_LEAST_NORM = 0.1
# Largest factor between two step sizes in the search: rounding hides how far the first ones went.
_JUMP = 16.0
# A slope this many times its mean size is an alarm.
_ALARM = 5.0
# Most that the brake may owe: what it has taken off the logarithm of a step size, neither given
# back nor forgotten. Where a step was too long, that is enough. Alarms of rare rows or new data are
# not ended by shorter steps, and would bring them to zero.
_MOST_OWED = 1.0
# Runs are long beyond here. The brake then falls like 1/t, as all rates do. And steps come to fall
# no faster than 1/sqrt(t): averaging has removed most of the noise by then, and steps that shrink
# too fast would keep the averaged parameters from moving on.
_LONG_RUN = 1000.0
# The share of the limit that is open to steps falls like this over t, and to this in the end. Early
# steps may be long, since little can be lost; late ones that nothing holds back grow only because
# gradients have nearly vanished, and the first one of usual size would throw away what was learned.
_TIGHTENS, _TIGHT = 100.0, 0.1
# Where the parabola says that steps were too long, its minimum has been seen, and steps up to so
# many times as long are within what is known. But only where the loss also rises, this reliably, on
# the way from the mean that is read out: where the problem changes, every change looks like that.
_BEYOND, _SETTLED = 1.5, 0.6


class MultiplicativeState(NamedTuple):
    """State of :func:`step_multiplicative`.

    Attributes:
      log_step: logarithm of the step size of each parabola, float32 of shape [n].
      before: the same, one sample before: that of the last displacement seen.
      scale: norm of the parameters at init, as the search takes it, parameter units; float32
        scalar.
      travelled: displacement of all parameters at the last sample, relative to their scale; float32
        scalar.
      search_end: count of the last sample of the search for the scale, int32 scalar.
      searching: whether the search goes on, bool scalar.
      owed: what the brake has taken off the logarithm of each step size, neither given back nor
        forgotten, float32 of shape [n].
      open_share: share of the limit that is open to each step size, float32 of shape [n].
    """

    log_step: jax.Array
    before: jax.Array
    scale: jax.Array
    travelled: jax.Array
    search_end: jax.Array
    searching: jax.Array
    owed: jax.Array
    open_share: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"step_size": jnp.exp(self.log_step)}

    def restart(self) -> "MultiplicativeState":
        # A step size that has been found is right already; a new search would lose it.
        return self._replace(
            search_end=jnp.zeros_like(self.search_end),
            travelled=jnp.zeros_like(self.travelled),
            owed=jnp.zeros_like(self.owed),
            open_share=jnp.ones_like(self.open_share),
        )


def multiplicative_kernel(
    drive: jax.Array,
    surprise: jax.Array,
    owed: jax.Array,
    stride: jax.Array,
    up: float | jax.Array,
    down: float | jax.Array,
    fastest: float | jax.Array,
    brake: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Change of the logarithm of the step size, one parabola.

    Args:
      drive: wanted direction of change, positive for a longer step; scalar.
      surprise: last slope in units of its mean size before, scalar.
      owed: what the brake has taken so far and not given back, scalar.
      stride: number of steps that the sample stands for, scalar.
      up: rate of increase.
      down: rate of decrease.
      fastest: rate of increase while something is owed, at least `up`.
      brake: decrease for every multiple of the alarm level by which the surprise exceeds
        it; 0 is no brake.

    Returns:
      The change, stride * (up * drive or down * drive), less what the brake takes, stride * brake *
      clip(surprise / 5 - 1, 0, 5) until 1 is owed, and more by what is given back, at the fastest
      rate; and what is owed then.
    """
    change = stride * jnp.where(drive > 0.0, up, down) * drive
    taken = stride * brake * jnp.clip(surprise / _ALARM - 1.0, 0.0, 5.0)
    taken = jnp.minimum(taken, jnp.maximum(_MOST_OWED - owed, 0.0))
    back = jnp.minimum(stride * (fastest - up) * jnp.maximum(drive, 0.0), owed)
    return change - taken + back, owed + taken - back


def search_kernel(
    log_step: jax.Array,
    before: jax.Array,
    travelled: jax.Array,
    travelled_before: jax.Array,
    blind: jax.Array,
) -> jax.Array:
    """Next logarithm of the step size in the search for the scale, one parabola.

    Args:
      log_step: logarithm of the step size of the step under way, scalar.
      before: that of the last step that `travelled` knows of, scalar.
      travelled: displacement of all parameters relative to their scale, scalar.
      travelled_before: the same, one sample before, scalar.
      blind: largest logarithm of the step size while nothing has moved at all, scalar.

    Returns:
      The step size that would have moved the parameters by the reach, 3/1000, but at most
      16 times the last one; no longer one where the last one has not moved them further; all as
      logarithms.
    """
    aim = before + jnp.log(_REACH) - jnp.log(jnp.maximum(travelled, jnp.finfo(jnp.float32).tiny))
    found = jnp.minimum(log_step + jnp.log(_JUMP), aim)
    # Steps below rounding move nothing, and nor do those that something behind this link holds
    # back, which must not grow for as long as that takes.
    still = travelled <= travelled_before
    limit = jnp.where(travelled > 0.0, log_step, jnp.maximum(log_step, blind))
    return jnp.where(still, jnp.minimum(found, limit), found)


def open_kernel(
    share: jax.Array,
    used: jax.Array,
    drive: jax.Array,
    settled: jax.Array,
    count: jax.Array,
    stride: jax.Array,
) -> jax.Array:
    """Share of the limit that is open to a step size, one parabola.

    Args:
      share: that before, scalar.
      used: step size in units of the limit, scalar.
      drive: wanted direction of change, negative for a shorter step; scalar.
      settled: how reliably the loss rises from the mean that is read out to the parameters, scalar.
      count: number of steps so far, scalar.
      stride: number of steps that the sample stands for, scalar.

    Returns:
      The share, less by 1/t beyond step 100; where the loss rises on that way by 0.6 of its mean
      size, and the step is to be shorter, at least 1.5 times what is used; where the loss rises by
      less, at most 100/t. Always at least 1/10 and at most 1.
    """
    later = jnp.maximum(count + stride, _TIGHTENS)
    faded = share * jnp.maximum(count, _TIGHTENS) / later
    seen = jnp.where(drive < 0.0, _BEYOND * used, 0.0)
    known = jnp.maximum(faded, seen)
    unknown = jnp.minimum(faded, _TIGHTENS / later)
    return jnp.clip(jnp.where(settled > _SETTLED, known, unknown), _TIGHT, 1.0)


def step_multiplicative(
    *,
    initial_step: float = 1e-6,
    growth: float = 6.0,
    decline: float = 1.0,
    max_rate: float = 0.05,
    brake: float = 0.1,
    limit: float | None = None,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    r"""Base step times a step size that the parabolas raise and lower.

    The parabola, after the flip, says whether to go on along the way that the parameters came
    (its offset is positive: the steps are too short) or back, and how reliably:

    .. math::
      \log\eta_{t+1} = \log\eta_t - \rho_t \phi_t - b_t + r_t

    with :math:`\phi` the signal, and rates
    :math:`\rho_t = \min(\rho_0, R/(t - t_s))` up and
    :math:`\min(\rho_0, R' (1 + \ell_t) / (2t))` down, :math:`\ell_t = \min(1, 1000/t)`. The
    brake :math:`b_t` answers alarms, and what it took is given back, :math:`r_t`, at the largest
    rate as soon as the slopes ask for longer steps (:math:`\rho_t` here is the rate up):

    .. math::
      b_t = \min(c \ell_t \, \mathrm{clip}(z_t / 5 - 1, 0, 5),\ 1 - o_t), \quad
      r_t = \min((\rho_0 - \rho_t) \max(-\phi_t, 0),\ o_t), \quad
      o_{t+1} = \frac{t}{t+1} (o_t + b_t - r_t)

    with :math:`z` the surprise and :math:`o` what is owed. An alarm means that a step was too long,
    or that a rare row came or the data changed, which shorter steps do not help; so alarms take a
    factor of e at most until it is given back, or forgotten, which lets steps fall by alarms alone
    like 1/t. A sample that stands for k steps does k times as much, within the same bounds, and
    what is owed is forgotten by :math:`t/(t+k)`. The rate of decrease stays below the rate at which
    the anchor forgets, so that the step size cannot collapse while old displacements still count.
    Beyond step 1,000 it goes over to :math:`R'/(2t)`, so that steps, the brake aside, come to fall
    no faster than :math:`1/\sqrt t`: averaging has removed most of the noise by then, and steps
    that shrink too fast would keep the averaged parameters from moving on.

    At the start a few samples search for the scale: the step size is set to what would have
    moved the parameters by 3/1000 of their norm, at most 16 times the last one, until
    they have moved about that far (at :math:`t_s`). The result therefore hardly depends on
    `initial_step`. Where a step has not moved them any further, because something behind this
    link holds the updates back, the next is no longer; where nothing has moved at all, as with
    steps below rounding, it is at most what would move them by that much times t, if the entries
    of the direction are 1. The norm is that of the matrices, since a bias may have been set to the
    mean of the targets, whose unit is not that of the weights. It is taken to be at least
    :math:`\tfrac{1}{10} (\sum_l \min(m_l, n_l))^{1/2}`, with matrices of :math:`m_l` by
    :math:`n_l`: a tenth of that of matrices with orthonormal rows or columns, for those that
    start near zero. (Of more than two axes, the last one counts against all others together.)
    Scalars and vectors have no such scale. Where they alone are, their norm is taken, and where
    they start at zero, each counts as a matrix of one column.

    A limit keeps steps short in proportion to the parameters, since gradients nearly vanish once
    data are memorized, or a task is solved. Steps then grow to make up for it, and one gradient of
    usual size would throw the network away. With a limit :math:`L` the step size stays below
    :math:`L a_t |W| / \sqrt n` once the search is over, where :math:`|W|` is the norm of the
    matrices, of their mean that is read out or at init, the larger of the two, n the number of all
    entries, and :math:`a_t` the share that is open, 1 at the start and after a :func:`reset`. In a
    sample that stands for k steps

    .. math::
      a_{t+k} = \begin{cases}
        \max\left(\frac{\max(t, 100)}{\max(t+k, 100)} a_t,\
          \frac{3}{2} \frac{\sqrt n \eta_t}{L |W|} [\phi_t > 0]\right) & \psi_t > 0.6 \\
        \min\left(\frac{\max(t, 100)}{\max(t+k, 100)} a_t,\ \frac{100}{t+k}\right) & \text{else}
      \end{cases}

    and at least 1/10, at most 1. So where steps only ever grow, the limit falls to a tenth; where
    the parabola says that a step was too long, it has seen the minimum, and steps near that one
    stay open. But where a problem changes, every change makes steps look too long. So this holds
    only where the loss also rises on the way from the mean that is read out to the parameters:
    :math:`\psi` is `settled` of the :class:`Sample`, and 0 where that is not known.

    Args:
      initial_step: :math:`\eta_1`, parameter units per unit of the base step.
      growth: :math:`R`, largest power of t at which a step size can grow.
      decline: :math:`R'`, largest power of t at which it can fall; it goes over to half of that
        beyond step 1,000.
      max_rate: :math:`\rho_0`.
      brake: :math:`c`: reaction to a sudden rise of the loss. 0 is none.
      limit: :math:`L`: largest norm of a step whose entries are all 1, in that of the matrices (or
        what it is taken to be at least at init).
        Vectors and scalars alone memorize little and have none, so that a narrow valley may be
        followed with long steps. None is no limit: for directions whose entries are not about 1 at
        most, such as raw gradients.
      per: granularity of the parabolas; the same as the tracker's.

    Returns:
      A link from :class:`Parabola` to updates in the parameters' types. Its state is four float32
      numbers per parabola and four scalars.

    Raises:
      ValueError: a constant is out of range; at init, `per` is impossible; in the update, it
        differs from the tracker's.
      TypeError: a constant is not a number.

    Source:
      This package; that steps of averaged parameters should fall more slowly than 1/t: Polyak and
      Juditsky, SIAM J. Control Optim. 30, 1992.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = optax.chain(
      ...     po.track_displacement(optax.scale_by_adam()),
      ...     po.estimate_uncentred(),
      ...     po.flip_saddles(),
      ...     po.step_multiplicative(initial_step=1e-5),
      ... )
      >>> def step(carry, _):
      ...     p, state = carry
      ...     grads = jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      ...     updates, state = optimizer.update(grads, state, p)
      ...     return (p + updates, state), po.metrics(state)["step_size"]
      >>> p = jnp.array([0.5, 1.0])
      >>> _, step_sizes = jax.lax.scan(step, (p, optimizer.init(p)), None, 60)
      >>> print(step_sizes[19] > 100.0 * step_sizes[0], step_sizes[59] > step_sizes[19])
      True True
    """
    _checks.in_range("initial_step", initial_step, 1e-30)
    for name, value in [
        ("growth", growth),
        ("decline", decline),
        ("max_rate", max_rate),
        ("brake", brake),
        ("limit", 0.0 if limit is None else limit),
    ]:
        _checks.in_range(name, value, 0.0)

    def init(params: Any) -> MultiplicativeState:
        layout = _layout.Layout.of(params, per)
        log_step = jnp.log(_tree.as_float32(initial_step)[0])
        return MultiplicativeState(
            log_step=jnp.full(layout.size, log_step),
            before=jnp.full(layout.size, log_step),
            scale=_scale(params, layout),
            travelled=jnp.zeros([], jnp.float32),
            search_end=jnp.zeros([], jnp.int32),
            searching=jnp.array(True),
            owed=jnp.zeros(layout.size, jnp.float32),
            open_share=jnp.ones(layout.size, jnp.float32),
        )

    def update(
        updates: Parabola, state: MultiplicativeState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, MultiplicativeState]:
        del extra_args
        sample = updates.sample
        layout = _layout.Layout.of(sample.update, per)
        _checks.same_layout(sample.slope.size, layout.size, "rule")
        upward, downward, fastest, alarm = _tree.as_float32(growth, decline, max_rate, brake)

        count, age = sample.count.astype(jnp.float32), sample.age.astype(jnp.float32)
        root_entries = math.sqrt(max(1, _tree.size(sample.update)))
        was_searching = state.searching & (state.scale > 0.0)
        found, searched = _search(state, sample, was_searching, root_entries)

        elapsed = jnp.clip(count - searched.search_end.astype(jnp.float32), 1.0, age)
        short = jnp.minimum(1.0, _LONG_RUN / age)
        drive = jnp.sign(updates.offset) * jnp.abs(updates.signal)
        up = jnp.minimum(fastest, upward / elapsed)
        down = jnp.minimum(fastest, downward * (0.5 + 0.5 * short) / age)
        # What a sample says holds for all the steps that it stands for, of which an alarm at one is
        # seen that seldom.
        rates = sample.stride, up, down, fastest, alarm * short
        change, owed = jax.vmap(lambda d, z, o: multiplicative_kernel(d, z, o, *rates))(
            drive, updates.surprise, state.owed
        )
        owed = jnp.where(was_searching, 0.0, owed * count / (count + sample.stride))
        longer, open_share = state.log_step + change, state.open_share
        if limit is not None and any(len(shape) > 1 for shape in layout.shapes(sample.update)):
            most = _tree.as_float32(limit)[0] * jnp.maximum(sample.norm, state.scale) / root_entries
            open_share = _open(state, sample, drive, most)
            longer = jnp.minimum(longer, jnp.log(jnp.maximum(open_share * most, 1e-30)))
        log_step = jnp.where(was_searching, found, longer)
        new = searched._replace(
            log_step=log_step, before=state.log_step, owed=owed, open_share=open_share
        )

        # With the step size of the previous sample, the loop over the parameters waits for the
        # inner products alone, and not for the small work on what they say.
        step = jnp.exp(state.log_step)
        moved = _decay.descend(sample, step, params, layout)
        return moved, _tree.where(sample.stride > 0, new, state)

    return link(init, update)


def _search(
    state: MultiplicativeState, sample: Sample, was_searching: jax.Array, root_entries: float
) -> tuple[jax.Array, MultiplicativeState]:
    """Logarithms of the step sizes that the search finds, and the state of the search after it."""
    count = sample.count.astype(jnp.float32)
    travelled = _tree.ratio(_tree.root(jnp.sum(sample.position**2)), state.scale)
    # Rounding lets the parameters fall short of the reach; half of it is good enough.
    searching = was_searching & (travelled < 0.5 * _REACH)
    # What would move parameters by the reach along a direction of unit entries, and after
    # t steps along one of entries of 1/t.
    typical = state.scale / root_entries
    blind = jnp.log(_REACH) + jnp.log(jnp.maximum(typical * count, 1e-30))
    found = jax.vmap(search_kernel, in_axes=(0, 0, None, None, None))(
        state.log_step, state.before, travelled, state.travelled, blind
    )
    # The first sample has not moved yet; the last one of the search may only cut back.
    may_grow = searching & (sample.count > 1)
    found = jnp.where(may_grow, found, jnp.minimum(found, state.log_step))
    search_end = jnp.where(searching, sample.count, state.search_end)
    after = state._replace(travelled=travelled, search_end=search_end, searching=searching)
    return found, after


def _open(
    state: MultiplicativeState, sample: Sample, drive: jax.Array, most: jax.Array
) -> jax.Array:
    """Share that is open of the limit, [n]; `most` is the step size at which all of it is used."""
    used = jnp.exp(state.log_step) / jnp.maximum(most, 1e-30)
    settled = jnp.zeros([], jnp.float32) if sample.settled is None else sample.settled
    when = settled, sample.count.astype(jnp.float32), sample.stride
    return jax.vmap(lambda share, u, d: open_kernel(share, u, d, *when))(
        state.open_share, used, drive
    )


def _scale(params: Any, layout: _layout.Layout) -> jax.Array:
    """The norm of the matrices, or what it is taken to be where they start near zero.

    That is a tenth of the norm of matrices with orthonormal rows or columns, in place of the
    matrices among the leaves. What has none of these has a unit of its own, unless it starts at
    zero; then every leaf counts as a matrix of one column.
    """
    norm = _tree.root(layout.square(layout.apart.inner(params, params), params))
    shapes = list(zip(layout.shapes(params), layout.sizes, strict=True))
    ranks = [n * min(s[-1], math.prod(s[:-1])) for s, n in shapes if len(s) > 1]
    matrices = bool(ranks)
    if not matrices:
        ranks = [n * min(1, math.prod(s)) for s, n in shapes]
    least = _LEAST_NORM * math.sqrt(sum(ranks))
    return jnp.maximum(norm, least) if matrices else jnp.where(norm == 0.0, least, norm)
