"""Curvature in several directions: :class:`Span` in, a :class:`Quadratic` out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._spectrum import SpectrumState, decompose
from parabolic_optax._types import Quadratic, Span, link

# Of the largest variance, or singular value: less has not been seen.
_UNSEEN = 1e-6


class RegressionState(NamedTuple):
    """Moments of an estimator, and its last spectrum.

    Attributes:
      response: running mean of [slope_i position_j], in the form of the estimator; [k, k].
      spread: that of [position_i position_j]; [k, k].
      spectrum: the last result.
    """

    response: jax.Array
    spread: jax.Array
    spectrum: SpectrumState

    def readings(self) -> dict[str, jax.Array]:
        return self.spectrum.readings()

    def direction_readings(self) -> dict[str, jax.Array]:
        return self.spectrum.direction_readings()

    def restart(self) -> "RegressionState":
        return jax.tree.map(jnp.zeros_like, self)


def centred_kernel(response: jax.Array, spread: jax.Array) -> jax.Array:
    """Symmetric H of least squares, C H + H C = B + B^T; all [k, k].

    Args:
      response: covariance B of slopes and positions.
      spread: covariance C of positions, symmetric.

    Returns:
      H, in the eigenbasis of C an entry (B_ij + B_ji) / (c_i + c_j); 0 between directions
      along which nothing has moved.
    """
    variances, vectors = jnp.linalg.eigh(spread)
    turned = vectors.T @ response @ vectors
    sums = variances[:, None] + variances[None, :]
    seen = sums > _UNSEEN * jnp.max(jnp.abs(variances))
    solved = jnp.where(seen, turned + turned.T, 0.0) / jnp.where(seen, sums, 1.0)
    return vectors @ solved @ vectors.T


def instrument_kernel(response: jax.Array, spread: jax.Array) -> jax.Array:
    """H with H G = A, as measured and so not symmetric; all [k, k].

    Args:
      response: A, mean of [slope change_i instrument_j].
      spread: G, mean of [step_i instrument_j].

    Returns:
      A G^-1, without the singular directions of G along which nothing has moved.
    """
    # LAPACK's singular values may never return from entries that are no numbers.
    size = jnp.max(jnp.abs(spread))
    sound = jnp.isfinite(size) & (size > 0.0)
    scale = jnp.where(sound, size, 1.0)
    unit = jnp.where(sound, spread / scale, 0.0)
    return (response / scale) @ jnp.linalg.pinv(unit, rtol=_UNSEEN)


def _estimator(
    rank: int,
    moments: Callable[[Span], tuple[jax.Array, jax.Array]],
    solve: Callable[[jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    _checks.rank(rank)

    def init(params: Any) -> RegressionState:
        dtype = _tree.real_type(params)
        zeros = jnp.zeros((rank, rank), dtype)
        return RegressionState(zeros, zeros + 0, SpectrumState.empty(rank, dtype))

    def update(
        updates: Span, state: RegressionState, params: Any = None, **extra_args: Any
    ) -> tuple[Quadratic, RegressionState]:
        del params, extra_args
        span = updates
        _checks.same_rank(span.transport.shape[0], rank)
        with jax.default_matmul_precision("highest"):
            response, spread = (
                span.transport @ old @ span.transport.T + new
                for old, new in zip((state.response, state.spread), moments(span), strict=True)
            )
            # Beside the newest product, all that is older fades.
            response, spread = (
                (1.0 - span.weight) * response,
                (1.0 - span.weight) * spread,
            )
            matrix = solve(response, spread)
            symmetric = 0.5 * (matrix + matrix.T)
            # At the parameters, from the mean slope: it holds less noise than the last one.
            from_mean = (1.0 - span.weight) * span.position
            slope = span.mean_slope + symmetric @ from_mean
            eigenvalues, vectors, asymmetry = decompose(matrix, symmetric)
            spectrum = SpectrumState(eigenvalues, vectors.T @ slope, asymmetry)
        new = RegressionState(response, spread, spectrum)
        quadratic = Quadratic(span, eigenvalues, vectors, spectrum.slopes, asymmetry)
        return quadratic, _tree.where(span.usable, new, state)

    return link(init, update)


def estimate_centred(rank: int = 1) -> optax.GradientTransformationExtraArgs:
    r"""Hessian by centred regression of slopes on positions, as published.

    With the running covariances :math:`C = \mathrm{cov}(x, x)` and
    :math:`B = \mathrm{cov}(s, x)` of positions and slopes along the directions, the symmetric
    H of least squares solves :math:`CH + HC = B + B^T`; in one direction it is
    :math:`\mathrm{cov}(s, x) / \mathrm{var}(x)`. The covariances are turned with the
    directions. The slope at the parameters is that of the model,
    :math:`\bar s + H(x - \bar x)`.

    Without noise H is exact on a quadratic, once n + 1 independent gradients have been
    seen along n directions that hold all motion. Under noise it carries phantom curvature:
    past noise is part of the positions, and pure noise reads about :math:`\beta / \eta`,
    the weight of the averages over the step size. :func:`estimate_instrument` does not.

    Args:
      rank: k, the same as the tracker's, static.

    Returns:
      A link from :class:`Span` to :class:`Quadratic`; its state is two k x k matrices and 3k
      numbers.

    Raises:
      ValueError: `rank` is below 1; in the update, it differs from the tracker's.
      TypeError: `rank` is not an integer.

    Source:
      Duda, arXiv:1901.11457; one direction: arXiv:1907.07063.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(po.track_fixed(jnp.array([[0.0, 1.0]])), po.estimate_centred())
      >>> state = links.init(jnp.array([0.5, 1.0]))
      >>> for p in (jnp.array([0.5, 1.0]), jnp.array([0.5, 3.0])):
      ...     quadratic, state = links.update(gradient(p), state, p)
      >>> print(quadratic.eigenvalues, quadratic.slopes)
      [3.] [12.]
    """
    return _estimator(
        rank,
        lambda span: (
            span.weight * jnp.outer(span.centred_slope, span.position),
            span.weight * jnp.outer(span.position, span.position),
        ),
        centred_kernel,
    )


def estimate_instrument(rank: int = 1) -> optax.GradientTransformationExtraArgs:
    r"""Hessian from differences, with an instrument: no phantom curvature.

    Between two samples the parameters move by :math:`\Delta x` and the slopes change by
    :math:`\Delta s = H \Delta x` and noise. The noise of the earlier gradient is in both. The
    instrument z, the displacement of the earlier parameters from their running mean, was fixed
    before either noise was drawn, and so were the directions. Hence

    .. math::
      E[\Delta s\, z^T] = H\, E[\Delta x\, z^T], \quad H = A G^{-1}

    without bias from noise. The price is variance: it needs far more samples than the centred
    form, most where the parameters are at rest around a minimum. The asymmetry of H says how
    far it can be trusted.

    Args:
      rank: k, the same as the tracker's, static.

    Returns:
      A link from :class:`Span` to :class:`Quadratic`, with the state of
      :func:`estimate_centred`.

    Raises:
      ValueError: `rank` is below 1; in the update, it differs from the tracker's.
      TypeError: `rank` is not an integer.

    Source:
      This package; instrumental variables are a method of econometrics.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> gradient = lambda p: jnp.array([1.0, 3.0]) * (p - jnp.array([2.0, -1.0]))
      >>> links = optax.chain(po.track_fixed(jnp.array([[0.0, 1.0]])), po.estimate_instrument())
      >>> state = links.init(jnp.array([0.5, 1.0]))
      >>> for p in (jnp.array([0.5, 1.0]), jnp.array([0.5, 3.0]), jnp.array([0.5, 2.0])):
      ...     quadratic, state = links.update(gradient(p), state, p)
      >>> print(quadratic.eigenvalues, quadratic.slopes)
      [3.] [9.]
    """

    def moments(span: Span) -> tuple[jax.Array, jax.Array]:
        # Where the parameters were one sample ago, from the mean that still holds.
        instrument = span.position - span.step
        return (
            span.weight * jnp.outer(span.slope_change, instrument),
            span.weight * jnp.outer(span.step, instrument),
        )

    return _estimator(rank, moments, instrument_kernel)


def estimate_exact(
    gradient: Callable[[Any], Any], rank: int = 1
) -> optax.GradientTransformationExtraArgs:
    r"""Hessian along the directions from Hessian-vector products: exact.

    :math:`V H V^T` by ``jax.jvp`` of the gradient along every direction. It needs what the
    other estimators do without, a function of the gradient, and is the oracle that they are
    tested against.

    Args:
      gradient: from parameters to their gradient, such as ``jax.grad(loss)``.
      rank: k, the same as the tracker's, static.

    Returns:
      A link from :class:`Span` to :class:`Quadratic`; its state is 3k numbers.

    Raises:
      ValueError: `rank` is below 1; in the update, it differs from the tracker's, or ``params``
        is missing or does not match the gradients.
      TypeError: `rank` is not an integer; in the update, `gradient` is not a function.

    Source:
      Pearlmutter, 1994, for the product.

    Example:
      >>> import jax, jax.numpy as jnp, parabolic_optax as po
      >>> loss = lambda p: jnp.sum(jnp.array([1.0, 3.0]) * (p - 2.0) ** 2)
      >>> tracker = po.track_fixed(jnp.array([[0.0, 1.0]]))
      >>> estimator = po.estimate_exact(jax.grad(loss))
      >>> p = jnp.array([1.0, -1.0])
      >>> span, _ = tracker.update(jax.grad(loss)(p), tracker.init(p), p)
      >>> print(estimator.update(span, estimator.init(p), p)[0].eigenvalues)
      [6.]
    """
    _checks.rank(rank)

    def init(params: Any) -> SpectrumState:
        return SpectrumState.empty(rank, _tree.real_type(params))

    def update(
        updates: Span, state: SpectrumState, params: Any = None, **extra_args: Any
    ) -> tuple[Quadratic, SpectrumState]:
        del extra_args
        span = updates
        _checks.same_rank(span.transport.shape[0], rank)
        _checks.match(span.gradient, params)

        def product(row: Any) -> jax.Array:
            tangent = jax.tree.map(lambda x, p: x.astype(p.dtype), row, params)
            _, image = jax.jvp(gradient, (params,), (tangent,))
            wide = jax.tree.map(lambda x, r: x.astype(r.dtype), image, row)
            return _tree.project(span.directions, wide, rank)

        with jax.default_matmul_precision("highest"):
            matrix = jax.lax.map(product, span.directions)
            eigenvalues, vectors, asymmetry = decompose(matrix, matrix)
            slopes = vectors.T @ _tree.project(span.directions, span.gradient, rank)
        new = SpectrumState(eigenvalues, slopes, asymmetry)
        quadratic = Quadratic(span, eigenvalues, vectors, slopes, asymmetry)
        return quadratic, _tree.where(span.usable, new, state)

    return link(init, update)
