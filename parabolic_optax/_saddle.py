"""Saddle sign-flip: where the parabola bends down, away from its extremum."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from parabolic_optax._types import Parabola, link, stateless


def flip_kernel(curvature: jax.Array, offset: jax.Array) -> jax.Array:
    """Offset after the flip, one parabola.

    Args:
      curvature: second derivative along the direction, scalar.
      offset: signed distance to the extremum, scalar.

    Returns:
      The offset, negated where the curvature is negative.
    """
    return jnp.where(curvature < 0.0, -offset, offset)


def flip_saddles() -> optax.GradientTransformationExtraArgs:
    r"""Turns the attraction of a maximum into repulsion.

    A Newton step goes to the extremum, :math:`-s/\lambda` away, also where that is a
    maximum. This link replaces it by :math:`-s/|\lambda|`, so that the step leaves along
    directions of negative curvature. The parabolas of :func:`estimate_uncentred` have their
    extremum at the anchor, from which the parameters come: a minimum calls them back, and from a
    maximum, which is what the anchor is while the loss still falls, they go on.

    Returns:
      A stateless link from :class:`Parabola` to :class:`Parabola`.

    Source:
      Saddle-free Newton: Dauphin et al., 2014, arXiv:1406.2572.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(
      ...     po.track_displacement(optax.scale_by_adam(), tail_power=None),
      ...     po.estimate_uncentred(),
      ...     po.flip_saddles(),
      ... )
      >>> state = links.init(jnp.array([4.0, -1.0]))
      >>> for p in (jnp.array([4.0, -1.0]), jnp.array([3.0, -1.0])):
      ...     parabola, state = links.update(gradient(p), state, p)
      >>> print(parabola.curvature, parabola.offset)
      [-1.] [0.5]
    """

    def update(
        updates: Parabola, state: optax.EmptyState, params: Any = None, **extra_args: Any
    ) -> tuple[Parabola, optax.EmptyState]:
        del params, extra_args
        offset = jax.vmap(flip_kernel)(updates.curvature, updates.offset)
        return updates._replace(offset=offset), state

    return link(stateless, update)
