"""Curvature in several directions: :class:`Secants` in, a :class:`Quadratic` out; the flip."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._spectrum import SpectrumState, decompose
from parabolic_optax._types import Quadratic, Secants, link, stateless

# Most that asymmetry shortens a step. Old secants can be wrong by any factor, and without a
# bound one stiff direction that was measured wrongly would stop the soft ones.
_MOST_DAMPED = 2.0


def symmetric_by_age(matrix: jax.Array, frame: jax.Array) -> jax.Array:
    """The symmetric matrix that reproduces the newest secants, [k, k].

    Args:
      matrix: measured [Q_i . W_j], [k, k].
      frame: coefficients of the displacements over Q, newest first, [k, k].

    Returns:
      In the frame, entry (i, j) is what the newer of the displacements i and j measured
      along the older one. The newest secant then holds exactly, unlike with the mean of
      the matrix and its transpose.
    """
    aged = frame @ matrix @ frame.T
    newer = jnp.tril(aged)
    return frame.T @ (newer + jnp.tril(aged, -1).T) @ frame


def spectrum_kernel(matrix: jax.Array, frame: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues (ascending), eigenvectors and asymmetry along them, all of size k.

    Args:
      matrix: measured [Q_i . W_j], [k, k].
      frame: coefficients of the displacements over Q, newest first, [k, k].

    Returns:
      Those of `matrix`, as :func:`decompose` defines them, with the newest secants held.
    """
    return decompose(matrix, symmetric_by_age(matrix, frame))


def estimate_secants(rank: int = 10) -> optax.GradientTransformationExtraArgs:
    r"""Hessian in the span of the secants: its eigenvalues, eigenvectors and asymmetry.

    From :math:`A = QW^T` the symmetric matrix is taken that reproduces the newest secants,
    and :math:`E^T (A - A^T) E / 2` along its eigenvectors E, relative to the eigenvalues,
    says how far the gradients are from those of a quadratic, because of noise or because
    the Hessian changes.

    Args:
      rank: number of directions, the same as the tracker's.

    Returns:
      A link from :class:`Secants` to :class:`Quadratic`; its state is 3k scalars.

    Raises:
      ValueError: `rank` is below 1; in the update, it differs from the tracker's.
      TypeError: `rank` is not an integer.

    Source:
      This package.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([-1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(po.track_secants(2), po.estimate_secants(2))
      >>> state = links.init(jnp.array([1.0, 2.0]))
      >>> for p in (jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5])):
      ...     quadratic, state = links.update(gradient(p), state, p)
      >>> print([f"{value:.3f}" for value in quadratic.eigenvalues])
      ['-1.000', '3.000']
    """
    _checks.rank(rank)

    def init(params: Any) -> SpectrumState:
        return SpectrumState.empty(rank, _tree.real_type(params))

    def update(
        updates: Secants, state: SpectrumState, params: Any = None, **extra_args: Any
    ) -> tuple[Quadratic, SpectrumState]:
        del params, extra_args
        _checks.same_rank(updates.frame.shape[0], rank)
        with jax.default_matmul_precision("highest"):
            eigenvalues, vectors, asymmetry = spectrum_kernel(updates.matrix, updates.frame)
            slopes = vectors.T @ _tree.project(updates.directions, updates.gradient, rank)
        quadratic = Quadratic(updates, eigenvalues, vectors, slopes, asymmetry)
        new = SpectrumState(eigenvalues, slopes, asymmetry)
        return quadratic, _tree.where(updates.usable, new, state)

    return link(init, update)


def flip_spectrum(damping: float = 1.0) -> optax.GradientTransformationExtraArgs:
    r"""Turns attraction to a saddle into repulsion, in every eigendirection.

    A Newton step goes to the extremum, :math:`-c_i / \lambda_i` away, also where that is a
    maximum. This link replaces :math:`\lambda_i` by
    :math:`|\lambda_i| \min(2, \sqrt{1 + (\delta a_i)^2})`, with :math:`a_i` the asymmetry, so
    that the step leaves along directions of negative curvature, and is up to a half shorter
    where the model is unreliable. Its length is limited by the trust radius. Without this
    link the steps of the chain are plain Newton steps, which are drawn to saddles.

    Args:
      damping: :math:`\delta`; 0 trusts every eigenvalue.

    Returns:
      A stateless link from :class:`Quadratic` to :class:`Quadratic`.

    Raises:
      ValueError: the damping is negative.
      TypeError: it is not a number.

    Source:
      Saddle-free Newton: Dauphin et al., 2014, arXiv:1406.2572. The damping: this package.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([-1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(
      ...     po.track_secants(2), po.estimate_secants(2), po.flip_spectrum()
      ... )
      >>> state = links.init(jnp.array([1.0, 2.0]))
      >>> for p in (jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5])):
      ...     quadratic, state = links.update(gradient(p), state, p)
      >>> print([f"{value:.3f}" for value in quadratic.eigenvalues])
      ['1.000', '3.000']
    """
    _checks.in_range("damping", damping, 0.0)

    def update(
        updates: Quadratic, state: optax.EmptyState, params: Any = None, **extra_args: Any
    ) -> tuple[Quadratic, optax.EmptyState]:
        del params, extra_args
        stiffness = stiffness_kernel(updates.eigenvalues, updates.asymmetry, damping)
        return updates._replace(eigenvalues=stiffness), state

    return link(stateless, update)


def stiffness_kernel(
    eigenvalues: jax.Array, asymmetry: jax.Array, damping: float | jax.Array
) -> jax.Array:
    """|eigenvalues| min(2, sqrt(1 + (damping asymmetry)^2)), all [k]."""
    (strength,) = _tree.as_type(asymmetry.dtype, damping)
    factor = jnp.sqrt(1.0 + (strength * asymmetry) ** 2)
    return jnp.abs(eigenvalues) * jnp.minimum(factor, _MOST_DAMPED)
