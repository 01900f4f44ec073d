"""Weight decay by a second slope: along the averaged parameters themselves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parabolic_optax import _tree
from parabolic_optax._types import Per, Sample, link

_TINY = jnp.finfo(jnp.float32).tiny
# Where the loss asks for nothing, the mean of a thirtieth of a run still wanders this far.
_DEAD = 0.4


class DecayOutwardState(NamedTuple):
    """Running means of the slope along the mean and of its size, and the decay they ask for.

    All are float32 scalars.
    """

    slope: jax.Array
    slope_size: jax.Array
    decay: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"weight_decay": self.decay}

    def restart(self) -> "DecayOutwardState":
        return DecayOutwardState(*(jnp.zeros_like(value) for value in self))


def outward_kernel(
    slope: jax.Array, slope_size: jax.Array, strength: float | jax.Array
) -> jax.Array:
    """Weight decay, one set of parameters.

    Args:
      slope: mean of r, scalar.
      slope_size: mean of |r|, scalar.
      strength: largest decay.

    Returns:
      strength * clip((-E[r] / E|r| - 0.4) / 0.6, 0, 1); 0 where nothing was seen yet.
    """
    signal = slope / jnp.maximum(slope_size, _TINY)
    return strength * jnp.clip((-signal - _DEAD) / (1.0 - _DEAD), 0.0, 1.0)


def decay_outward(
    strength: float | jax.Array = 0.25,
    mask: Any | Callable[[Any], Any] | None = None,
    *,
    memory: float = 29.0,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay that acts only while the loss drives the weights outward.

    Along the averaged parameters :math:`\bar y`, which a user evaluates, the loss has the
    slope :math:`r_t = \langle g_t, \bar y_t \rangle`, its derivative by the logarithm of their
    scale. (The gradient is taken at :math:`\theta`; the difference is the curvature between the
    two points, which adds little on average, since most of the noise of :math:`\theta` is not
    in :math:`\bar y`.) At a minimum the mean of :math:`r` is zero. A network that learns its data
    by heart has none: its loss falls for ever as its weights grow, and all minibatches agree,

    .. math::
      \phi = E[r] / E|r| \to -1, \qquad
      \theta \leftarrow \theta - \eta u - \min(\eta, 4/t)\,\omega\,\theta, \quad
      \omega = \omega_0 \, \mathrm{clip}\left(\frac{-\phi - 0.4}{0.6}, 0, 1\right)

    while on a problem with a minimum, such as least squares or a physics-informed network,
    :math:`\phi` comes to zero, and the minimum is not moved. So one strength serves both. (The
    minimum of a softmax regression lies so far out that decay keeps the weights from it, and
    :math:`\phi` at -1.) The means look back over a fixed fraction of the run. The step rule takes
    the decay in and limits it, since where it holds the weights the steps still grow.

    Only matrices decay and are counted in :math:`r` unless a mask says otherwise: leaves of two
    axes or more, beside the one that `per` slices. Biases and the scales of normalisations learn
    little by heart, and their decay is what costs a network that is still learning.

    Args:
      strength: :math:`\omega_0`, in units of the base step, at least 0.
      mask: which leaves decay, a tree of bools (True alone for all) or a function of the
        parameters; the slope is taken along these alone. None takes the matrices; with
        ``per="global"`` all leaves, since there is one slope of all parameters then.
      memory: power of the polynomial-decay averages; 29 looks back over a thirtieth of the
        run.
      per: granularity of the parabolas; the same as the tracker's.

    Returns:
      A link from :class:`Sample` to :class:`Sample`, to stand behind the tracker. Its state
      is three float32 scalars, and the inner product one more in the pass that the tracker
      makes over gradients and parameters anyway.

    Raises:
      ValueError: a constant is out of range; a mask is given with ``per="global"``; in the
        update, ``params`` is missing.
      TypeError: a constant is not a number.

    Source:
      This package. Decoupled decay: Loshchilov and Hutter, arXiv:1711.05101.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> links = optax.chain(po.track_displacement(optax.identity()), po.decay_outward())
      >>> params = jnp.array([[2.0, -1.0]])
      >>> outward, _ = links.update(jnp.array([[-1.0, 0.5]]), links.init(params), params)
      >>> across, _ = links.update(jnp.array([[0.5, 1.0]]), links.init(params), params)
      >>> print(outward.decay, across.decay)
      [0.25] [0.]
    """
    _tree.check_range("strength", strength, 0.0)
    _tree.check_range("memory", memory, 0.0)
    whole = isinstance(per, str) and per == "global"
    if mask is not None and whole:
        raise ValueError(
            "with per='global' there is one slope of all parameters, and none of those that a"
            " mask chooses: leave out the mask, use another per, or decay by a given number."
        )

    def init(params: Any) -> DecayOutwardState:
        del params
        zero = jnp.zeros([], jnp.float32)
        return DecayOutwardState(zero, zero + 0.0, zero + 0.0)

    def update(
        updates: Sample, state: DecayOutwardState, params: Any = None, **extra_args: Any
    ) -> tuple[Sample, DecayOutwardState]:
        del extra_args
        sample = updates
        counted_in = jnp.ones_like(sample.radial_slope)
        if not whole:
            layout = _tree.Layout.of(params, per)
            decays = _matrices(params, layout) if mask is None else _decaying(mask, params)
            counted_in = jnp.asarray(np.repeat(np.asarray(decays, np.float32), layout.sizes))
        slope = jnp.sum(counted_in * sample.radial_slope)
        weight = sample.stride * _tree.polynomial_weight(sample.count, memory)
        weight = jnp.minimum(0.5, weight)
        mean = state.slope + weight * (slope - state.slope)
        size = state.slope_size + weight * (jnp.abs(slope) - state.slope_size)
        fitted = DecayOutwardState(mean, size, outward_kernel(mean, size, strength))
        state = _tree.where((sample.stride > 0) & jnp.isfinite(slope), fitted, state)

        decay = counted_in * jnp.where(sample.usable, state.decay, 0.0)
        return sample._replace(decay=decay), state

    return link(init, update)


def _matrices(params: Any, layout: _tree.Layout) -> list[bool]:
    """Whether each leaf, or each of its slices, has two axes or more."""
    return [
        leaf.ndim - (axis is not None) >= 2
        for leaf, axis in zip(jax.tree.leaves(params), layout.axes, strict=True)
    ]


def _decaying(mask: Any, params: Any) -> list[bool]:
    """Whether each leaf decays; a mask may be a prefix of the parameters."""
    tree = mask(params) if callable(mask) else mask
    spread = jax.tree.map(lambda own, sub: jax.tree.map(lambda _: bool(own), sub), tree, params)
    return jax.tree.leaves(spread)
