"""Step rule of the published OGR forms: a :class:`Quadratic` in a span in, updates out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._types import Quadratic, Span, link, stateless


def newton_kernel(
    slope: jax.Array, curvature: jax.Array, share: float | jax.Array, limit: jax.Array
) -> jax.Array:
    """Step along one eigenvector: share of the way to the extremum, at most `limit` long.

    Args:
      slope: of the loss, scalar.
      curvature: scalar; where it is 0 nothing is known, and the step is 0.
      share: of the modelled distance.
      limit: longest step, not negative.

    Returns:
      -share slope / curvature, clipped on both sides.
    """
    known = curvature != 0.0
    way = -share * slope / jnp.where(known, curvature, 1.0)
    return jnp.where(known, jnp.clip(way, -limit, limit), 0.0)


def step_newton(
    learning_rate: float = 1e-3, *, share: float = 0.5, reach: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""A share of the Newton step along the known eigenvectors, and gradient descent elsewhere.

    Along an eigenvector of curvature :math:`\lambda_i \ne 0` the step is
    :math:`-\alpha c_i / \lambda_i`, towards the extremum, or away from it where a flip before
    this link has turned the sign. It is limited, on both sides, by `reach` times the
    distance of the parameters from their running mean: a nearly flat parabola has its
    extremum arbitrarily far away, and the model has seen no more than that. What the gradient
    holds beside those directions is followed by :math:`-\eta g`.

    Args:
      learning_rate: :math:`\eta`, parameter units per gradient unit.
      share: :math:`\alpha`, of the modelled distance, at least 0.
      reach: largest step along an eigenvector, in multiples of the distance.

    Returns:
      A stateless link from :class:`Quadratic`, made of a :class:`Span`, to updates in the
      parameters' types.

    Raises:
      ValueError: a constant is negative; in the update, ``params`` is missing or does not match.
      TypeError: a constant is not a number; the model was made of another record.

    Source:
      Duda, arXiv:1901.11457. The limit: this package.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> optimizer = optax.chain(
      ...     po.track_fixed(jnp.array([[0.0, 1.0]])),
      ...     po.estimate_exact(gradient),
      ...     po.step_newton(learning_rate=0.1, share=0.5),
      ... )
      >>> state = optimizer.init(jnp.array([0.5, 1.0]))
      >>> for p in (jnp.array([0.5, 1.0]), jnp.array([0.5, 3.0])):
      ...     updates, state = optimizer.update(gradient(p), state, p)
      >>> print(updates)
      [ 0.15 -2.  ]
    """
    for name, value in (("learning_rate", learning_rate), ("share", share), ("reach", reach)):
        _checks.in_range(name, value, 0.0)

    def update(
        updates: Quadratic, state: optax.EmptyState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, optax.EmptyState]:
        del extra_args
        span, vectors = updates.sample, updates.eigenvectors
        if not isinstance(span, Span):
            raise TypeError(
                f"step_newton steps in a Span, got {type(span).__name__}: use track_averages,"
                " track_components or track_fixed, or step_trust_region after track_secants."
            )
        _checks.match(span.gradient, params)
        rank = vectors.shape[0]
        known = updates.eigenvalues != 0.0
        rate, part, furthest = _tree.as_type(updates.slopes.dtype, learning_rate, share, reach)
        with jax.default_matmul_precision("highest"):
            newton = jax.vmap(newton_kernel, in_axes=(0, 0, None, None))(
                updates.slopes, updates.eigenvalues, part, furthest * span.distance
            )
            along = vectors.T @ _tree.project(span.directions, span.gradient, rank)
            # Where the model speaks, gradient descent is silent.
            inside = vectors @ (newton + rate * jnp.where(known, along, 0.0))
        step = _tree.axpy(-rate, span.gradient, _tree.combine(inside, span.directions))
        return _tree.step_or_stay(span.usable, step, params), state

    return link(stateless, update)
