"""The OGR family: Newton steps in a few directions, from gradients alone."""

from typing import Any, NamedTuple

import optax

from parabolic_optax import _parabolic, _quadratic, _secants, _tree, _trust
from parabolic_optax._types import link

_ADAM = optax.scale_by_adam()


class GatedState(NamedTuple):
    """State of :func:`ogr` with a base.

    Attributes:
      newton: state of the chain of links that makes second-order steps.
      fallback: state of ``parabolic(base)``.
    """

    newton: Any
    fallback: Any


def ogr(
    rank: int = 10,
    base: optax.GradientTransformation | None = _ADAM,
    *,
    initial_radius: float = 1.5,
    damping: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Saddle-free Newton steps in a few directions; falls back to a base under noise.

    For full batches, fitting, physics-informed networks: one gradient per step, no function
    value, no line search, nothing to tune. The Hessian in the span of the newest k
    displacements is regressed from gradient changes, :math:`y = Hs`; the step goes towards
    the extremum where its eigenvalue is positive, away from it where it is negative, and
    follows the predicted gradient outside the span. It is the chain of
    :func:`track_secants`, :func:`estimate_secants`, :func:`flip_spectrum` and
    :func:`step_trust_region`, whose docstrings hold the details.

    With minibatches gradient changes are mostly noise. The tracker measures it, by a step
    of length zero at samples 8, 64, 128, 256 and so on; while noise makes more than 4 % of
    the squared gradient changes, the steps are those of ``parabolic(base)``.

    Args:
      rank: k, number of directions; static.
      base: direction of the fallback, as in :func:`parabolic`. None keeps none, and never
        probes: for gradients that are known to be exact.
      initial_radius: length of the first step, in units of the root mean square of the
        parameters; of 1 where they are 0.
      damping: how much the measured asymmetry of the Hessian shortens the steps.

    Returns:
      A transformation that needs ``update(grads, state, params)``. State: 2k + 2 buffers
      like the parameters, in at least float32, O(k^2) scalars, and the state of the
      fallback (four buffers for Adam). A gradient that is zero or not finite is left out and
      counted; after two in a row that are not finite, the step that led there is taken back.
      :func:`metrics` shows the eigenvalues, the distances to the extremum along their
      eigenvectors, radius, noise, and whether second-order steps are on.

    Raises:
      TypeError: `rank` is not an integer, another constant not a number, or the base not a
        gradient transformation; a parameter is not of floating type.
      ValueError: a constant is out of range, or the base points downhill; in the update,
        ``params`` is missing or does not match the gradients.

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
    newton = optax.chain(
        _secants.track_secants(rank, probe=base is not None),
        _quadratic.estimate_secants(rank),
        _quadratic.flip_spectrum(damping),
        _trust.step_trust_region(initial_radius=initial_radius),
    )
    return newton if base is None else _gated(newton, _parabolic.parabolic(base))


def _gated(
    newton: optax.GradientTransformationExtraArgs,
    fallback: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Steps of `newton` where its tracker finds the gradients reliable, else of `fallback`."""

    def init(params: Any) -> GatedState:
        return GatedState(newton.init(params), fallback.init(params))

    def update(
        updates: Any, state: GatedState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, GatedState]:
        second, newton_state = newton.update(updates, state.newton, params, **extra_args)
        first, fallback_state = fallback.update(updates, state.fallback, params, **extra_args)
        before, tracker = _tracker(state.newton), _tracker(newton_state)
        reliable = tracker.reliable | tracker.probing
        chosen = _tree.where(reliable, second, first)
        # While it is not needed, the fallback waits at the newest point, as if just begun.
        waiting = fallback.init(optax.apply_updates(params, chosen))
        waits = tracker.reliable & (tracker.skipped == before.skipped)
        return chosen, GatedState(newton_state, _tree.where(waits, waiting, fallback_state))

    return link(init, update)


def _tracker(state: Any) -> _secants.TrackSecantsState:
    """The state of the first link of the chain."""
    return state[0]
