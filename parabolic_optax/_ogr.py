"""The OGR family: Newton steps in a few directions, from gradients alone."""

import optax

from parabolic_optax import _quadratic, _secants, _trust


def ogr(
    rank: int = 10,
    *,
    initial_radius: float = 0.1,
    damping: float = 0.3,
) -> optax.GradientTransformationExtraArgs:
    r"""Saddle-free Newton steps in the span of the newest displacements; for low noise.

    For full batches, fitting, physics-informed networks: gradients with little or no noise.
    One gradient per step, no function value, no line search; nothing to tune. The Hessian
    in the span of the newest k displacements is regressed from gradient changes,
    :math:`y = Hs`; the step goes towards the extremum where its eigenvalue is positive,
    away from it where it is negative, and follows the predicted gradient outside the span.
    It is the chain of :func:`track_secants`, :func:`estimate_secants`,
    :func:`flip_spectrum` and :func:`step_trust_region`, whose docstrings hold the details.

    Args:
      rank: k, number of directions; static.
      initial_radius: length of the first step, in units of the length of the parameters.
      damping: how much the measured asymmetry of the Hessian shortens the steps.

    Returns:
      A transformation that needs ``update(grads, state, params)``. State: 2k + 2 buffers
      like the parameters, in at least float32, and O(k^2) scalars. A step with a gradient
      that is not finite changes nothing and is counted. :func:`metrics` shows the
      eigenvalues, the distances to the extremum along their eigenvectors, radius and noise.

    Raises:
      TypeError: `rank` is not an integer; a parameter is not of floating type.
      ValueError: a constant is out of range; in the update, ``params`` is missing or does
        not match the gradients.

    Source:
      This package; online gradient regression in a few directions is due to Duda,
      arXiv:1901.11457, the saddle-free step to Dauphin et al., arXiv:1406.2572.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> def loss(p):
      ...     return (1.0 - p["x"]) ** 2 + 100.0 * (p["y"] - p["x"] ** 2) ** 2
      >>> optimizer = po.ogr()
      >>> def step(carry, _):
      ...     params, state = carry
      ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      ...     return (optax.apply_updates(params, updates), state), None
      >>> params = {"x": jnp.array(-1.2), "y": jnp.array(1.0)}
      >>> (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 80)
      >>> print(params["x"].round(3), params["y"].round(3))
      1.0 1.0
    """
    return optax.chain(
        _secants.track_secants(rank),
        _quadratic.estimate_secants(rank),
        _quadratic.flip_spectrum(damping),
        _trust.step_trust_region(initial_radius=initial_radius),
    )
