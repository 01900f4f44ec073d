"""Step rule in several directions: a :class:`Quadratic` in, updates out."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._types import Quadratic, link

_NEWTON_STEPS = 12
# Of a step to where the gradient is not finite.
_RETREAT = 0.25
# Of a step that did not do what the model promised. Its secant is in the model by then, so
# less needs to be given up than without one.
_SHRUNK = 0.7


class TrustRegionState(NamedTuple):
    """State of :func:`step_trust_region`.

    Attributes:
      radius: longest step, parameter units; scalar.
      predicted: change of the loss that the model promised for the last step; scalar.
    """

    radius: jax.Array
    predicted: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"radius": self.radius}

    def restart(self) -> "TrustRegionState":
        return self._replace(predicted=jnp.zeros_like(self.predicted))


def radius_kernel(
    radius: jax.Array, predicted: jax.Array, actual: jax.Array, moved: jax.Array
) -> jax.Array:
    """Trust radius after a step of length `moved`; all scalars.

    0.7 of the step, or of the radius if that is shorter, where less than a quarter of the
    predicted decrease came true; twice the radius where more than three quarters did and the
    step was longer than 0.8 of it.
    """
    tiny = jnp.finfo(radius.dtype).tiny
    ratio = actual / jnp.minimum(predicted, -tiny)
    grown = jnp.where((ratio > 0.75) & (moved > 0.8 * radius), 2.0 * radius, radius)
    return jnp.where(ratio < 0.25, _SHRUNK * jnp.minimum(moved, radius), grown)


def bounded_newton(slopes: jax.Array, curvatures: jax.Array, radius: jax.Array) -> jax.Array:
    r"""Newton step of at most the given length, in an eigenbasis; [n].

    Args:
      slopes: gradient c, [n].
      curvatures: eigenvalues l, not 0, [n].
      radius: scalar.

    Returns:
      -c / (l + sign(l) m) with the smallest m >= 0 for which the step is inside.
    """
    size = jnp.abs(curvatures)

    def length(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        step = slopes / (size + shift)
        square = jnp.sum(step**2)
        return jnp.sqrt(square), jnp.sum(step**2 / (size + shift)) / jnp.where(
            square > 0.0, square, 1.0
        )

    def improve(_: Any, shift: jax.Array) -> jax.Array:
        # Newton's method on 1 / length, which is nearly linear in the shift.
        norm, fall = length(shift)
        return jnp.maximum(0.0, shift + (norm / radius - 1.0) / jnp.where(fall > 0.0, fall, 1.0))

    shift = jax.lax.fori_loop(0, _NEWTON_STEPS, improve, jnp.zeros_like(radius))
    norm, _ = length(shift)
    fit = jnp.minimum(1.0, radius / jnp.where(norm > 0.0, norm, 1.0))
    return -fit * slopes / (curvatures + jnp.sign(curvatures) * shift)


def step_trust_region(*, initial_radius: float = 1.5) -> optax.GradientTransformationExtraArgs:
    r"""Newton step in the span and along the gradient it leaves, inside a trust radius.

    With eigenpairs :math:`(\lambda_i, e_i)` of the span as the link before hands them over,
    slopes :math:`c_i`, and the gradient :math:`r = g - \sum_i (c_i / \lambda_i) H e_i`
    predicted after the step in the span, the model has one more direction: :math:`r_\perp`,
    the part of r outside the span. The curvature along it is unknown; it is taken as the
    `stretch` of :class:`Secants`, after the step in the span has been adapted to it (a Schur
    complement). Couplings :math:`e_i \cdot H r_\perp` are known from the images. The step
    minimises this model within the radius where all :math:`\lambda_i` are positive, as
    :func:`flip_spectrum` makes them; else it goes towards the extremum, be it a saddle. It
    starts from the base point, and is 0 where the tracker probes.

    The radius follows the ratio of the actual change of the loss (of the gradients, by the
    trapezoidal rule) to the predicted one: 0.7 of the step, or of the radius if that is
    shorter, below 1/4, and twice the radius above 3/4 if the step was nearly as long. It is
    never less than a few roundings of the parameters. The first step has the initial radius
    as its length. Where a step is taken back because two gradients in a row were not finite,
    the radius is a quarter of that step.

    Args:
      initial_radius: in units of the root mean square of the parameters; of 1 where they are 0.

    Returns:
      A link from :class:`Quadratic` to updates in the parameters' types; two scalars.

    Raises:
      ValueError: the initial radius is below 1e-30; in the update, ``params`` is missing
        or does not match.
      TypeError: the initial radius is not a number.

    Source:
      This package; trust radius as in Nocedal and Wright, Numerical Optimization, ch. 4.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = optax.chain(
      ...     po.track_secants(2), po.estimate_secants(2), po.step_trust_region(initial_radius=0.5)
      ... )
      >>> def step(carry, _):
      ...     p, state = carry
      ...     grads = jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      ...     updates, state = optimizer.update(grads, state, p)
      ...     return (p + updates, state), jnp.linalg.norm(updates)
      >>> p = jnp.array([0.6, 0.8])
      >>> (p, _), lengths = jax.lax.scan(step, (p, optimizer.init(p)), None, 10)
      >>> print(p.round(3), lengths[0].round(3))
      [ 2. -1.] 0.354
    """
    _checks.in_range("initial_radius", initial_radius, 1e-30)

    def init(params: Any) -> TrustRegionState:
        zero = jnp.zeros([], _tree.real_type(params))
        return TrustRegionState(radius=zero, predicted=zero + 0)

    def update(
        updates: Quadratic, state: TrustRegionState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TrustRegionState]:
        del extra_args
        secants = updates.sample
        _checks.match(secants.gradient, params)
        # Relative to the length of the parameters it would be too short for a few of them, or
        # so long for a network that it lands far from its start.
        typical = secants.scale / math.sqrt(max(_tree.size(params), 1))
        (relative,) = _tree.as_type(typical.dtype, initial_radius)
        start = relative * jnp.where(typical > 0.0, typical, 1.0)
        # Steps shorter than a few roundings of the parameters cannot be judged.
        floor = 16.0 * jnp.finfo(start.dtype).eps * secants.scale
        judged = radius_kernel(state.radius, state.predicted, secants.change, secants.moved)
        radius = jnp.where(secants.moved > 0.0, jnp.maximum(judged, floor), state.radius)
        radius = jnp.where(state.radius > 0.0, radius, start)
        with jax.default_matmul_precision("highest"):
            step, predicted = _minimise(updates, radius)
        go = secants.usable & ~secants.probing
        moves = jax.tree.map(
            lambda back, x, p: _tree.as_like(back + jnp.where(go, x, 0.0), p),
            secants.recoil,
            step,
            params,
        )
        fled = jnp.where(secants.moved > 0.0, _RETREAT * secants.moved, state.radius)
        new = TrustRegionState(radius, predicted)
        return moves, _tree.where(secants.usable, new, state._replace(radius=fled))

    return link(init, update)


def _minimise(quadratic: Quadratic, radius: jax.Array) -> tuple[Any, jax.Array]:
    """Step of the model within the radius, and the change of the loss it promises."""
    secants, vectors = quadratic.sample, quadratic.eigenvectors
    rank = vectors.shape[0]
    curvatures = _bounded_below(quadratic.eigenvalues)
    inverse = _tree.inverse(curvatures)

    inside = vectors @ (-inverse * quadratic.slopes)
    left = _tree.axpy(1.0, _tree.combine(inside, secants.images), secants.gradient)
    for _ in range(2):  # the second pass makes it orthogonal to rounding
        along = _tree.project(secants.directions, left, rank)
        left = _tree.axpy(-1.0, _tree.combine(along, secants.directions), left)
    # Where the span is all of space this is rounding, a direction at random inside it, and the
    # step can be longer than the radius by a factor of sqrt(2).
    size = jnp.sqrt(_tree.dot(left, left))
    per_length = _tree.inverse(size)
    outward = _tree.scale(per_length, left)

    # Of the vector before it is divided by its length: see `insert` of the tracker.
    coupling = vectors.T @ (per_length * _tree.project(secants.images, left, rank))
    slope = per_length * _tree.dot(left, secants.gradient)
    # Before the first secant nothing is known: a step of the full radius.
    unknown = jnp.where(secants.stretch > 0.0, secants.stretch, jnp.abs(slope) / radius)
    corner = unknown + jnp.sum(coupling**2 * inverse)
    model = jnp.diag(jnp.append(curvatures, corner)).at[-1, :-1].set(coupling)
    model = model.at[:-1, -1].set(coupling)
    eigenvalues, turned = jnp.linalg.eigh(model)
    eigenvalues = _bounded_below(eigenvalues)
    slopes = turned.T @ jnp.append(quadratic.slopes, slope)
    known = jnp.where(eigenvalues == 0.0, 1.0, eigenvalues)
    newton = jnp.where(eigenvalues == 0.0, 0.0, bounded_newton(slopes, known, radius))
    predicted = jnp.sum(slopes * newton + 0.5 * eigenvalues * newton**2)

    coefficients = turned @ newton
    step = _tree.axpy(
        coefficients[-1], outward, _tree.combine(vectors @ coefficients[:-1], secants.directions)
    )
    return step, predicted


def _bounded_below(eigenvalues: jax.Array) -> jax.Array:
    """The eigenvalues, away from 0 by a rounding of the largest; 0 where all are 0."""
    floor = jnp.finfo(eigenvalues.dtype).eps * jnp.max(jnp.abs(eigenvalues))
    sign = jnp.where(eigenvalues < 0.0, -1.0, 1.0)
    return sign * jnp.maximum(jnp.abs(eigenvalues), floor)
