"""Base directions that leave out the coordinates whose extremum already lies behind."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks


def cautious(base: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""The direction of a base, without the coordinates along which the loss now rises.

    Momentum remembers slopes of the past. Along coordinate i the loss has the slope
    :math:`-g_i u_i` by the step :math:`-u`; where it is positive, the extremum of that coordinate's
    parabola lies behind, and going on would lead away from it. Those coordinates wait, while the
    base keeps its statistics of all of them:

    .. math::
      u_i \leftarrow u_i \, [\mathrm{Re}(\bar g_i u_i) \ge 0]

    A gradient of zero says nothing, and its coordinate goes on. Steps are not made longer for what
    is left out, as the rule in the source does, which would have to count it first;
    :func:`parabolic` finds their length.

    Small networks memorize their data faster with such steps than without, so they want
    weight decay; :func:`parabolic_adamw` has both.

    Args:
      base: an optax direction that points like the gradient, such as ``optax.scale_by_adam()``.

    Returns:
      A direction to give to :func:`parabolic`. Its state is the base's; the result has the types
      of the base's direction.

    Raises:
      TypeError: the base is not a gradient transformation.
      ValueError: at init, the base points downhill, as complete optimizers do.

    Source:
      Liang, Chen, Liu and Liu, Cautious optimizers, arXiv:2411.16085.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> direction = po.cautious(optax.trace(0.9))
      >>> params = jnp.array([2.0, -1.0])
      >>> _, state = direction.update(jnp.array([4.0, 1.0]), direction.init(params), params)
      >>> step, _ = direction.update(jnp.array([-1.0, 3.0]), state, params)
      >>> print(step.round(1))
      [0.  3.9]
    """
    _checks.direction(base)
    return masked(_checks.ascending(base))


def masked(base: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """:func:`cautious` of a base that is known to point like the gradient."""
    base = optax.with_extra_args_support(base)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        direction, state = base.update(updates, state, params, **extra_args)
        return jax.tree.map(_agreeing, direction, updates), state

    return optax.GradientTransformationExtraArgs(base.init, update)


# Compiled as a whole, also outside of jit: jax_debug_infs would else take the bounds for a fault.
@jax.jit
def _agreeing(direction: jax.Array, gradient: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(direction):
        # By its sign, since the product of two small numbers would be rounded to zero.
        along = jnp.real(jnp.conj(jnp.sign(gradient)).astype(direction.dtype) * direction)
        # What is not a number stays visible.
        return jnp.where(along < 0.0, jnp.zeros_like(direction), direction)
    # The same, with the direction used once: it then stays in the loop that computes it. Used
    # twice, XLA stores it in between, and parabolic_adamw moves a twelfth more bytes.
    least = jnp.where(gradient > 0.0, 0.0, -jnp.inf).astype(direction.dtype)
    most = jnp.where(gradient < 0.0, 0.0, jnp.inf).astype(direction.dtype)
    return jnp.clip(direction, least, most)
