"""Saddle sign-flip: where the parabola bends down, away from its extremum."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _tree
from parabolic_optax._types import Parabola, link


def flip_kernel(
    curvature: jax.Array, offset: jax.Array, position: jax.Array, cap: float | jax.Array
) -> jax.Array:
    """Offset after the flip, one parabola.

    Args:
      curvature: second derivative along the direction, scalar.
      offset: signed distance to the extremum, scalar.
      position: signed coordinate of the parameters, scalar.
      cap: largest allowed distance, in multiples of |position|.

    Returns:
      The offset, negated where the curvature is negative, clipped to cap |position|.
    """
    away = jnp.where(curvature < 0.0, -offset, offset)
    reach = cap * jnp.abs(position)
    return jnp.clip(away, -reach, reach)


def flip_saddles(cap: float = 1.0) -> optax.GradientTransformationExtraArgs:
    r"""Turns the attraction of a maximum into repulsion, with a capped distance.

    A Newton step goes to the extremum, :math:`-s/\lambda` away, also where that is a
    maximum. This link replaces it by :math:`-s/|\lambda|`, so that the step leaves along
    directions of negative curvature.
    A nearly flat parabola has its extremum arbitrarily far away, so the distance is
    limited to what the model has seen: `cap` times the distance from its anchor.

    Args:
      cap: largest distance, in multiples of the position; at least 0.

    Returns:
      A stateless link from :class:`Parabola` to :class:`Parabola`.

    Raises:
      ValueError: the cap is negative.
      TypeError: the cap is not a number.

    Source:
      Saddle-free Newton: Dauphin et al., 2014, arXiv:1406.2572. The cap: this package.

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
    _tree.check_range("cap", cap, 0.0)

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: Parabola, state: optax.EmptyState, params: Any = None, **extra_args: Any
    ) -> tuple[Parabola, optax.EmptyState]:
        del params, extra_args
        offset = jax.vmap(flip_kernel, in_axes=(0, 0, 0, None))(
            updates.curvature, updates.offset, updates.sample.position, cap
        )
        return updates._replace(offset=offset), state

    return link(init, update)
