"""Curvature estimators: a :class:`Sample` in, a :class:`Parabola` out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _layout, _tree
from parabolic_optax._types import Parabola, Per, Sample, link


class UncentredMoments(NamedTuple):
    """Running means over slopes s and positions x, one per parabola and one for the whole.

    Attributes:
      means: of s, of its size, and of x, float32 of shape [3, n + 1]; the last column belongs to
        the displacement of all parameters together.
    """

    means: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        # Also of several runs at once, which `metrics` then refuses.
        signal, curvature, offset = uncentred_kernel(*jnp.moveaxis(self.means, -2, 0))
        return {"signal": signal, "curvature": curvature, "offset": offset}

    def restart(self) -> "UncentredMoments":
        return jax.tree.map(jnp.zeros_like, self)


def uncentred_kernel(
    slope: jax.Array, slope_size: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Signal, curvature and offset of a parabola with its extremum at the anchor.

    Args:
      slope: mean of s, scalar.
      slope_size: mean of |s|, scalar.
      position: mean of x, scalar.

    Returns:
      E[s] / E|s|, E[s] / E[x] and -E[x]; 0 where nothing has moved yet.
    """
    return _tree.ratio(slope, slope_size), _tree.ratio(slope, position), -position


def estimate_uncentred(
    *, memory: float = 29.0, pooling: float = 1.0, per: Per = "tensor"
) -> optax.GradientTransformationExtraArgs:
    r"""Curvature about the anchor, from the uncentred moment; unbiased under noise.

    The model is :math:`s = \lambda x`: a parabola whose extremum is the anchor of the
    tracker. Its curvature is :math:`\lambda = E[s] / E[x]`. Position and direction were
    fixed before the noise of the slope was drawn, so gradient noise adds variance and no
    bias: no phantom curvature. :math:`\lambda > 0` says that the mean of the past is a
    better place than the present (the steps are too long), :math:`\lambda < 0` that the
    loss still falls away from it, whatever lies ahead (the steps are too short).

    The reliability of the slope is its mean over its mean size. The size rather than the root
    mean square, because single gross slopes count less and a square can overflow.

    One tensor's slopes are noisy, and where the direction is scaled already, as Adam's is,
    tensors that lengthen and shorten their steps apart only disturb each other. The signal of
    each parabola is therefore pooled with that of the whole, and the curvature is computed from
    the pooled one. A tensor that has had no gradient yet, or has not moved, takes size and position
    of the whole as well, so that its steps grow and shrink with those of all.

    Args:
      memory: power of the polynomial-decay averages; 29 looks back over a thirtieth of
        the run.
      pooling: share of the whole's signal in every parabola's, in [0, 1].
      per: granularity of the parabolas; the same as the tracker's.

    Returns:
      A link from :class:`Sample` to :class:`Parabola`. Its state is three float32 numbers per
      parabola and three for the whole.

    Raises:
      ValueError: a constant is out of range; at init, `per` is impossible; in the update, it
        differs from the tracker's.
      TypeError: a constant is not a number.

    Source:
      This package; the centred regression that it replaces is Duda's, arXiv:1907.07063.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(
      ...     po.track_displacement(optax.scale_by_adam(), tail_power=None),
      ...     po.estimate_uncentred(),
      ... )
      >>> state = links.init(jnp.array([4.0, -1.0]))
      >>> for p in (jnp.array([4.0, -1.0]), jnp.array([0.0, -1.0])):
      ...     parabola, state = links.update(gradient(p), state, p)
      >>> print(parabola.curvature, parabola.offset, parabola.signal)
      [0.5] [-2.] [1.]
    """
    _checks.in_range("memory", memory, 0.0)
    _checks.in_range("pooling", pooling, 0.0, 1.0)

    def init(params: Any) -> UncentredMoments:
        size = _layout.Layout.of(params, per).size
        return UncentredMoments(jnp.zeros((3, size + 1), jnp.float32))

    def update(
        updates: Sample, state: UncentredMoments, params: Any = None, **extra_args: Any
    ) -> tuple[Parabola, UncentredMoments]:
        del params, extra_args
        sample = updates
        slope, position = _with_whole(sample.slope, sample.position)
        _checks.same_layout(len(slope) - 1, state.means.shape[1] - 1, "estimator")
        surprise = _tree.ratio(slope, state.means[1])
        power, share = _tree.as_float32(memory, pooling)
        weight = _tree.sample_weight(sample.stride, sample.age, power, most=0.5)
        seen = jnp.stack([slope, jnp.abs(slope), position])
        means = _tree.follow(state.means, seen, weight)

        signal, _, _ = jax.vmap(uncentred_kernel)(*means)
        pooled = (1.0 - share) * signal[:-1] + share * signal[-1]
        # Where there was no gradient yet, or no motion, the whole speaks for the tensor: its step
        # size has to keep up for when there is.
        size, place = (jnp.where(mean[:-1] > 0.0, mean[:-1], mean[-1]) for mean in means[1:])
        parabola = Parabola(
            sample=sample,
            curvature=_tree.ratio(pooled * size, place),
            offset=-place,
            signal=pooled,
            # A tensor must heed an alarm of the whole; the whole, that of a tensor, need not.
            surprise=jnp.maximum(surprise[:-1], surprise[-1]),
        )
        return parabola, UncentredMoments(means)

    return link(init, update)


def _with_whole(slope: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Appends slope and position along the displacement of all parameters together."""
    whole = _tree.root(jnp.sum(position**2))
    along = _tree.ratio(jnp.sum(slope * position), whole)
    return jnp.append(slope, along), jnp.append(position, whole)
