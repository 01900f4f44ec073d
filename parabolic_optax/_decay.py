"""Weight decay that spares minima: while the loss drives weights outward, or with the step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parabolic_optax import _checks, _layout, _tree
from parabolic_optax._types import Per, Radial, Sample, link

# Where the loss asks for nothing, the mean of a thirtieth of a run still wanders this far.
_DEAD = 0.4
# Weights shrink no faster than by 1 / (t + this) in a step, as the slopes are forgotten; else they
# would be gone before the means have seen it.
_GRACE = 29.0
# What weights shrink by as the step brings them nearer to zero falls like 1/t^2 well beyond here.
# All in all a weight keeps (29/300)^(300/271), 7.5 %: its start is forgotten, and less and less of
# what is found later.
_START = 300.0
# Nearer than this to the fastest shrinkage, the growth of weights is less and less held by decay.
_MARGIN = 1.0 / 6.0
# Decay that leads uphill from where the run began is cut back, by a tenth a sample at most, and so
# early: later the loss would rise for other reasons.
_EARLY, _CUT = 100.0, 0.1


class Verdict(NamedTuple):
    """What the loss says of a decay early in a run.

    Attributes:
      means: running means of <g, D>, D the displacement of all parameters, of its size, and of the
        part of it by which what decays has shrunk, 0 where it has grown; float32 of shape [3].
      change: sum of <g, D> / t, in proportion to the change of the loss since the first step;
        float32 scalar.
      log_left: logarithm of the share of the decay that is left; float32 scalar.
    """

    means: jax.Array
    change: jax.Array
    log_left: jax.Array

    def after(self, sample: Sample, decays: jax.Array, weight: jax.Array) -> "Verdict":
        """Takes in a sample of which these leaves, or slices of them, decay: 1, others 0."""
        radial, count = _radial(sample), sample.count.astype(jnp.float32)
        along_point, overlap, square = jnp.sum(decays * radial.products, axis=-1)
        shrunk = _tree.ratio(jnp.minimum(overlap, 0.0), square)
        seen = jnp.stack([radial.along, jnp.abs(radial.along), along_point * shrunk])
        means = _tree.follow(self.means, seen, weight)
        change = self.change + sample.stride * radial.along / count
        uphill = jnp.where(change > 0.0, uphill_kernel(*means), 0.0)
        early = jnp.clip(2.0 - count / _EARLY, 0.0, 1.0)
        log_left = self.log_left - _CUT * early * sample.stride * uphill
        return Verdict(means, change, log_left)


class DecayOutwardState(NamedTuple):
    """State of :func:`decay_outward`.

    Attributes:
      means: running means of the slope along the mean y that is read out, of its size, and of
        log |y|; float32 of shape [3].
      decay: what the first two means ask for, and the verdict has left; float32 scalar.
      verdict: of the loss on it.
    """

    means: jax.Array
    decay: jax.Array
    verdict: Verdict

    def readings(self) -> dict[str, jax.Array]:
        return {"weight_decay": self.decay}

    def restart(self) -> "DecayOutwardState":
        return jax.tree.map(jnp.zeros_like, self)


class DecayInwardState(NamedTuple):
    """State of :func:`decay_inward`.

    Attributes:
      share: of its strength that acts, 1, and 0 after a restart; float32 scalar.
      verdict: of the loss on it.
    """

    share: jax.Array
    verdict: Verdict

    def readings(self) -> dict[str, jax.Array]:
        return {}

    def restart(self) -> "DecayInwardState":
        # What has been learned so far is not what the weights were initialised with.
        return DecayInwardState(*jax.tree.map(jnp.zeros_like, self))


def outward_kernel(slope: jax.Array, slope_size: jax.Array) -> jax.Array:
    """How surely the loss drives the weights outward, one set of parameters.

    Args:
      slope: mean of r, scalar.
      slope_size: mean of |r|, scalar.

    Returns:
      clip((-E[r] / E|r| - 0.4) / 0.6, 0, 1); 0 where nothing was seen yet.
    """
    signal = _tree.ratio(slope, slope_size)
    return jnp.clip((-signal - _DEAD) / (1.0 - _DEAD), 0.0, 1.0)


def uphill_kernel(slope: jax.Array, slope_size: jax.Array, rise: jax.Array) -> jax.Array:
    """How surely decay leads uphill, one set of parameters.

    Args:
      slope: mean of <g, D>, scalar.
      slope_size: mean of its size, scalar.
      rise: mean of the part of it by which the parameters have shrunk, scalar.

    Returns:
      clip((min(slope, rise) / slope_size - 0.4) / 0.6, 0, 1): the loss rises the way that the
      parameters came, and would by their shrinking alone. 0 where nothing was seen yet.
    """
    signal = _tree.ratio(jnp.minimum(slope, rise), slope_size)
    return jnp.clip((signal - _DEAD) / (1.0 - _DEAD), 0.0, 1.0)


def held_kernel(growth: jax.Array) -> jax.Array:
    """How far decay can hold the weights, one set of parameters.

    Args:
      growth: rate at which the weights grow, in units of the fastest shrinkage, scalar.

    Returns:
      clip(6 (1 - growth), 1/2, 1).
    """
    return jnp.clip((1.0 - growth) / _MARGIN, 0.5, 1.0)


def tangential_kernel(
    slope: jax.Array, length: jax.Array, radial_slope: jax.Array, growth: jax.Array
) -> jax.Array:
    """Slope along a displacement without the part by which the weights grow, one parabola.

    Args:
      slope: <g, D> / |D|, scalar.
      length: |D|, scalar.
      radial_slope: <g, y>, scalar.
      growth: part of y that is in D and to be left out, scalar.

    Returns:
      <g, D - growth y> / |D|, and the slope as it is where the displacement is zero.
    """
    return slope - _tree.ratio(growth * radial_slope, length)


def decay_outward(
    strength: float | jax.Array = 0.25,
    mask: Any | Callable[[Any], Any] | None = None,
    *,
    always: bool = False,
    memory: float = 29.0,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay that acts only while the loss drives the weights outward.

    Along the averaged parameters :math:`\bar y`, which a user evaluates, the loss has the
    slope :math:`r_t = \langle g_t, \bar y_t \rangle`, its derivative by the logarithm of their
    scale. (The gradient is taken at :math:`\theta`; the difference is the curvature between the
    two points, which adds little on average, since most of the noise of :math:`\theta` is not
    in :math:`\bar y`.) At a minimum the mean of :math:`r` is zero. A network that memorizes its
    data has none: its loss falls for ever as its weights grow, and all minibatches agree,

    .. math::
      \phi = E[r] / E|r| \to -1, \qquad
      \kappa = \mathrm{clip}\left(\frac{-\phi - 0.4}{0.6}, 0, 1\right), \qquad
      \theta \leftarrow \theta - \eta u - \min(\eta \kappa \omega, 1/(t + 29))\,\theta

    while on a problem with a minimum, such as least squares or a physics-informed network,
    :math:`\phi` comes to zero, and the minimum is not moved. So one strength :math:`\omega` serves
    both. (Without any noise and from inside, it does not come to zero while decay and step are in
    balance short of the minimum, which is then approached slowly. Where a minimum is to be met
    exactly, take a strength of 0.) The means look back over a fixed fraction of the run, and
    weights shrink no faster than the run gets longer.

    Where decay holds the weights the loss goes on asking for larger ones, which says nothing about
    the step size: longer steps only make the decay stronger. So the scale is left to the two of
    them, and the slope along the displacement is judged without it:

    .. math::
      \langle g, D \rangle \leftarrow \langle g, D \rangle
        - \kappa h \langle g, \bar y \rangle \langle D, \bar y \rangle / |\bar y|^2,
      \qquad
      h = \mathrm{clip}\left(6 - 6 \frac{d \log |\bar y|}{d \log t}, \frac12, 1\right)

    with the products of all leaves that decay, and :math:`\kappa` of the sample before. Weights
    that grow as fast as the run gets longer, which is as fast as they may shrink, are not held:
    for them only half of that product is taken off, because a linear model that starts at zero
    has no other way to its minimum than outward. (So the slope of a single tensor is no longer
    along its own displacement, only that of the whole is. The steps of directions that are scaled
    already, for which this is made, go by the whole.)

    Parameters that stand for something, such as pixels, centres or prices, may start near the right
    values far from zero, where shrinking is a long way uphill, and a step is too short to make up
    for it. So where the loss has risen since the first step, :math:`\sum_t \langle g_t, D_t
    \rangle / t > 0`, and shrinking is why, each of the first 100 samples (and fewer and fewer until
    200) takes up to a tenth off the strength, for good:

    .. math::
      \omega \leftarrow \omega \exp\left(-\tfrac{1}{10}\,\mathrm{clip}\left(
        \frac{\min(E[a], E[b]) / E|a| - 0.4}{0.6}, 0, 1\right)\right), \qquad
      a = \langle g, D \rangle, \quad
      b = \langle g, \bar y \rangle \min(0, \langle D, \bar y \rangle) / |\bar y|^2

    A network that trains is below its first loss by then, or its weights have grown, and it loses
    nothing of its decay.

    Only matrices decay and are counted in all of this unless a mask says otherwise: leaves of two
    axes or more, beside the one that `per` slices. Biases and the scales of normalisations memorize
    little, and their decay is what costs a network that is still learning. A leaf that has no
    gradient in a step, as behind ``jax.lax.stop_gradient``, does not decay in it.

    Args:
      strength: :math:`\omega`, in units of the base step, at least 0; 0 leaves the slopes as
        they are, too.
      mask: which leaves decay, a tree of bools (True alone for all) or a function of the
        parameters; the slope is taken along these alone. None takes the matrices.
      always: whether to decay in full whatever the loss says and whether there is a gradient, as
        ``optax.add_decayed_weights`` does; :math:`\kappa` is then 1 in the step alone.
      memory: power of the polynomial-decay averages; 29 looks back over a thirtieth of the
        run.
      per: granularity of the parabolas; the same as the tracker's.

    Returns:
      A link from :class:`Sample` to :class:`Sample`, to stand behind the tracker. Its state
      is nine float32 numbers; the tracker takes two more inner products for it.

    Raises:
      ValueError: a constant is out of range; in the update, `mask` does not fit the parameters,
        the tracker has another `per`, or it does not take the inner products with the mean
        (``radial=True``).
      TypeError: a constant is not a number.

    Source:
      This package. Decoupled decay: Loshchilov and Hutter, arXiv:1711.05101.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> tracker = po.track_displacement(optax.identity(), radial=True)
      >>> links = optax.chain(tracker, po.decay_outward())
      >>> params = jnp.array([[2.0, -1.0]])
      >>> outward, _ = links.update(jnp.array([[-1.0, 0.5]]), links.init(params), params)
      >>> across, _ = links.update(jnp.array([[0.5, 1.0]]), links.init(params), params)
      >>> print(outward.decay, across.decay)
      [0.25] [0.]
    """
    _checks.in_range("strength", strength, 0.0)
    _checks.in_range("memory", memory, 0.0)

    def init(params: Any) -> DecayOutwardState:
        del params
        zero, means = jnp.zeros([], jnp.float32), jnp.zeros(3, jnp.float32)
        return DecayOutwardState(means, zero, _no_verdict())

    def update(
        updates: Sample, state: DecayOutwardState, params: Any = None, **extra_args: Any
    ) -> tuple[Sample, DecayOutwardState]:
        del extra_args
        sample, layout = updates, _layout.Layout.of(params, per)
        radial = _radial(sample)
        _checks.same_layout(sample.slope.size, layout.size, "decay")
        largest, power = _tree.as_float32(strength, memory)
        counted_in = _counted(mask, params, layout)
        along_point, overlap, square = jnp.sum(counted_in * radial.products, axis=-1)
        log_length = 0.5 * jnp.log(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))
        seen = jnp.stack([along_point, jnp.abs(along_point), log_length])
        # The last one is not limited as the weight of noisy slopes is: the first sample sets the
        # level, and after t of them a power of t is read right to 1 / t.
        most = jnp.array([0.5, 0.5, 1.0], jnp.float32)
        weights = _tree.sample_weight(sample.stride, sample.age, power, most)
        means = _tree.follow(state.means, seen, weights)
        mean, size, level = means
        verdict = state.verdict.after(sample, counted_in, weights[0])
        share = 1.0 if always else jnp.exp(verdict.log_left) * outward_kernel(mean, size)

        # By what was known before the noise of this gradient was drawn. A mean of this power lags
        # behind by 1 / (memory + 1) in the logarithm of t.
        held = held_kernel((power + 1.0) * (log_length - level))
        outward = jnp.where(largest > 0.0, outward_kernel(*state.means[:2]), 0.0)
        if not always:
            outward *= jnp.exp(state.verdict.log_left)
        growth = held * outward * _tree.ratio(overlap, square)
        radial_slope = layout.pooled(counted_in * radial.products[0])
        along = jax.vmap(tangential_kernel, in_axes=(0, 0, 0, None))(
            sample.slope, radial.length, radial_slope, growth
        )
        asked = jnp.where(sample.stride > 0, largest * share, state.decay)
        state = DecayOutwardState(means, asked, verdict)
        # What has no gradient, such as a network behind jax.lax.stop_gradient, nothing drives.
        acts = sample.usable if always else sample.usable & radial.driven
        decay = _larger(sample.decay, counted_in * jnp.where(acts, state.decay, 0.0))
        return sample._replace(slope=along, decay=decay), state

    return link(init, update)


def decay_inward(
    strength: float | jax.Array = 3.0,
    mask: Any | Callable[[Any], Any] | None = None,
    *,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    r"""Weight decay that forgets the start: of coordinates that the step brings nearer to zero.

    .. math::
      \theta_i \leftarrow \theta_i - \eta u_i
        - [u_i \theta_i > 0]\,\frac{\min(\eta \omega, 1/(t + 29))}{1 + t/300}\,\theta_i

    A weight that the data say little about, such as that of a rare category, moves to and fro, and
    loses what it was initialised with whenever it moves inward. One that the loss wants as it is
    is pushed back outward as soon as it is too small, and is then left alone. That matters
    where a model comes to fit its data exactly, since from then on no gradient takes away what is
    left of the start, and it adds to every prediction on other data.

    Well beyond step 300 the shrinkage falls like :math:`1/t^2`: a weight that always moves inward
    keeps 7.5 % of itself in all, however long the run, 51 % of what it has at step 300, and 91 % of
    what it has at step 3,000 (with no other decay). So a minimum that is found early is moved a
    little, and one that is found late hardly, where a constant decay moves it in proportion to
    itself. Weights at a :func:`reset` are no start to forget, and this link then does nothing more.
    Where forgetting leads uphill from the first step on, it is cut back, as by
    :func:`decay_outward`.

    Args:
      strength: :math:`\omega`, in units of the base step, at least 0.
      mask: which leaves decay, a tree of bools (True alone for all) or a function of the
        parameters. None takes the matrices, as :func:`decay_outward` does.
      per: granularity of the parabolas; the same as the tracker's.

    Returns:
      A link from :class:`Sample` to :class:`Sample`, to stand behind the tracker. Its state is six
      float32 numbers. Where :func:`decay_outward` asks for more, such a coordinate gets that.

    Raises:
      ValueError: the constant is out of range; in the update, `mask` does not fit the parameters,
        the tracker has another `per`, or it does not take the inner products with the mean
        (``radial=True``).
      TypeError: the constant is not a number.

    Source:
      Chen et al., Cautious weight decay, arXiv:2510.12402, for the coordinates; this package for
      how much and for how long.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = po.parabolic(optax.identity(), decay=po.decay_inward(1e4))
      >>> params = jnp.array([[3.0, -3.0]])
      >>> updates, _ = optimizer.update(jnp.ones((1, 2)), optimizer.init(params), params)
      >>> print(updates.round(4))
      [[-0.0299 -0.    ]]
    """
    _checks.in_range("strength", strength, 0.0)

    def init(params: Any) -> DecayInwardState:
        del params
        return DecayInwardState(jnp.ones([], jnp.float32), _no_verdict())

    def update(
        updates: Sample, state: DecayInwardState, params: Any = None, **extra_args: Any
    ) -> tuple[Sample, DecayInwardState]:
        del extra_args
        sample, layout = updates, _layout.Layout.of(params, per)
        _radial(sample)
        _checks.same_layout(sample.slope.size, layout.size, "decay")
        counted_in = _counted(mask, params, layout)
        weight = _tree.sample_weight(sample.stride, sample.count, jnp.float32(_GRACE), most=0.5)
        state = state._replace(verdict=state.verdict.after(sample, counted_in, weight))
        largest = state.share * jnp.exp(state.verdict.log_left) * _tree.as_float32(strength)[0]
        # Where the sample is not usable the step is zero, and no coordinate moves inward.
        decay = _larger(sample.inward_decay, largest * counted_in)
        return sample._replace(inward_decay=decay), state

    return link(init, update)


def _radial(sample: Sample) -> Radial:
    if sample.radial is None:
        raise ValueError(
            "the decay needs the slope along the mean that is read out: give the tracker"
            " radial=True."
        )
    return sample.radial


def _no_verdict() -> Verdict:
    zero = jnp.zeros([], jnp.float32)
    return Verdict(jnp.zeros(3, jnp.float32), zero, zero + 0.0)


def descend(sample: Sample, step: jax.Array, params: Any, layout: _layout.Layout) -> Any:
    """Updates: steps of these sizes [n] along the direction, and the decay of the links above."""
    count, age = sample.count.astype(jnp.float32), sample.age.astype(jnp.float32)

    def share(decay: jax.Array, time: jax.Array) -> jax.Array:
        return jnp.minimum(step * decay, 1.0 / (time + _GRACE))

    # One factor per leaf, or slice of one: the step, the share of the weights that is taken off,
    # and that of weights that move inward.
    factors = [jnp.broadcast_to(step, (layout.apart.size,))]
    if sample.decay is not None:
        factors.append(share(sample.decay, age))
    if sample.inward_decay is not None:
        inward = share(sample.inward_decay, count) / (1.0 + count / _START)
        outward = jnp.zeros_like(inward) if sample.decay is None else factors.pop()
        factors += [outward, jnp.maximum(outward, inward)]
    spread = layout.apart.spread(jnp.stack(factors), params)
    return jax.tree.map(_descend_leaf, sample.update, spread, params)


def _descend_leaf(direction: jax.Array, factors: jax.Array, params: jax.Array) -> jax.Array:
    step, *shares = factors.astype(direction.dtype)
    moved = step * direction
    if not shares:
        return _tree.as_like(moved, params)
    share = shares[0]
    if len(shares) > 1:
        # By the sign, since the product of two small numbers would be rounded to zero.
        inward = jnp.real(_tree.as_like(jnp.conj(jnp.sign(moved)), params) * params) < 0.0
        share = jnp.where(inward, shares[1], share)
    return _tree.as_like(moved - share * params, params)


def _larger(other: jax.Array | None, own: jax.Array) -> jax.Array:
    """What a link and one before it ask for together: leaves may have strengths of their own."""
    return own if other is None else jnp.maximum(other, own)


def _counted(mask: Any, params: Any, layout: _layout.Layout) -> jax.Array:
    """1 for each leaf, or slice of one, that decays, 0 for others."""
    if mask is None:
        decays = [len(shape) > 1 for shape in layout.shapes(params)]
    else:
        decays = _decaying(mask, params)
    return jnp.asarray(np.repeat(np.asarray(decays, np.float32), layout.sizes))


def _decaying(mask: Any, params: Any) -> list[bool]:
    """Whether each leaf decays; a mask may be a prefix of the parameters."""
    tree = mask(params) if _layout.is_function(mask) else mask
    values = _layout.per_leaf("mask", "bool", tree, params)
    for name, own in zip(_layout.leaf_paths(params), values, strict=True):
        if np.ndim(own) != 0 or not (isinstance(own, int) or hasattr(own, "dtype")):
            raise ValueError(
                f"mask gives {own!r} for {name or 'the parameters'}: it must be True or False."
            )
    return [bool(own) for own in values]
