"""Every coordinate its own parabola: the diagonal OGR form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _checks, _tree
from parabolic_optax._types import link


class OgrDiagonalState(NamedTuple):
    """State of :func:`ogr_diagonal`.

    Attributes:
      mean: running mean of the parameters.
      mean_gradient: running mean of the gradients.
      spread: running variance of the parameters, real.
      response: running covariance of gradients and parameters; the variance of the
        gradients where correlation is taken to be 1; real.
      count: number of samples taken, int32 scalar.
      skipped: number of steps whose gradient was zero or not finite, int32 scalar.
    """

    mean: Any
    mean_gradient: Any
    spread: Any
    response: Any
    count: jax.Array
    skipped: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"count": self.count, "skipped": self.skipped}

    def restart(self) -> "OgrDiagonalState":
        return self._replace(count=jnp.zeros_like(self.count))


def curvature_kernel(response: jax.Array, spread: jax.Array, perfect: bool) -> jax.Array:
    """Curvature of one coordinate: cov / var, or sigma_g / sigma_x if the correlation is 1.

    Args:
      response: covariance of slope and position, or variance of the slope; scalar.
      spread: variance of the position; scalar.
      perfect: whether the correlation is taken to be 1.

    Returns:
      The curvature, 0 where the coordinate has not moved.
    """
    moved = spread > 0.0
    ratio = jnp.where(moved, response, 0.0) / jnp.where(moved, spread, 1.0)
    return jnp.sqrt(ratio) if perfect else ratio


def ogr_diagonal(
    learning_rate: float = 1e-3,
    *,
    share: float = 0.5,
    reach: float = 1.0,
    decay: float = 0.9,
    perfect_correlation: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""One parabola per coordinate, as published: slope, or :math:`\sigma_\theta / \sigma_g`.

    .. math::
      \lambda_i = \mathrm{cov}(g_i, \theta_i) / \mathrm{var}(\theta_i), \quad
      \theta_i \leftarrow \theta_i
        - \alpha\,(\bar g_i + \lambda_i (\theta_i - \bar\theta_i)) / |\lambda_i|

    With `perfect_correlation` the correlation is taken to be 1, so that
    :math:`|\lambda_i| = \sigma_{g,i} / \sigma_{\theta,i}`, and the step is
    :math:`-\alpha\,(\sigma_\theta / \sigma_g)_i\, g_i`.

    It is one link rather than four, since records of one parabola per coordinate would be whole
    trees. Use it to compare with the literature. Do not train with it: under noise the slope form
    carries phantom curvature in every coordinate, and the :math:`\sigma` form has no scale
    of its own, because its steps set the :math:`\sigma_\theta` they are computed from.
    Where coordinates are coupled a diagonal is no Hessian: couplings to others that move at
    the same time are part of the slope.

    Repaired: means start at the first sample and not at 0; steps are limited on both sides.

    Args:
      learning_rate: :math:`\eta` of gradient descent where a coordinate has not moved yet.
      share: :math:`\alpha`.
      reach: longest step of a coordinate, in multiples of :math:`\sigma_\theta`.
      decay: of the running means and moments.
      perfect_correlation: the :math:`\sigma` form; static.

    Returns:
      A transformation that needs ``update(grads, state, params)``. State: 4 buffers like the
      parameters, in at least float32. A gradient that is zero or not finite is counted and
      changes nothing.

    Raises:
      ValueError: a constant is out of range; in the update, ``params`` is missing or does not
        match the gradients.
      TypeError: a constant is not a number; a parameter is not of floating type.

    Source:
      Duda, arXiv:1901.11457; :math:`\sigma` form: arXiv:1907.07063. The constants: this
      package.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = po.ogr_diagonal(learning_rate=0.1)
      >>> def step(carry, _):
      ...     p, state = carry
      ...     grads = jnp.array([1.0, 4.0]) * (p - jnp.array([2.0, -3.0]))
      ...     updates, state = optimizer.update(grads, state, p)
      ...     return (p + updates, state), None
      >>> p = jnp.array([0.5, 1.0])
      >>> (p, _), _ = jax.lax.scan(step, (p, optimizer.init(p)), None, 40)
      >>> print(p.round(2))
      [ 2. -3.]
    """
    _checks.in_range("decay", decay, 0.0, 1.0)
    for name, value in (("learning_rate", learning_rate), ("share", share), ("reach", reach)):
        _checks.in_range(name, value, 0.0)

    def init(params: Any) -> OgrDiagonalState:
        _checks.floating(params)
        mean = _tree.wide_copy(params)

        def real() -> Any:
            return jax.tree.map(lambda m: jnp.zeros_like(jnp.real(m)), mean)

        return OgrDiagonalState(
            mean=mean,
            mean_gradient=jax.tree.map(jnp.zeros_like, mean),
            spread=real(),
            response=real(),
            count=jnp.zeros([], jnp.int32),
            skipped=jnp.zeros([], jnp.int32),
        )

    def update(
        updates: Any, state: OgrDiagonalState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, OgrDiagonalState]:
        del extra_args
        point, gradient, square = _tree.observe(updates, params, state.mean)
        usable = _tree.informative(square)
        count = _tree.next_count(state.count)
        weight = _tree.recent_weight(count, decay, _tree.real_type(point))
        first = state.count == 0

        def leaf(x, g, mean, mean_gradient, spread, response):
            w = weight.astype(spread.dtype)
            rate, part, furthest = _tree.as_type(spread.dtype, learning_rate, share, reach)
            dx, dg = (jnp.where(first, 0.0, a - b) for a, b in ((x, mean), (g, mean_gradient)))
            mean, mean_gradient = x - (1.0 - w) * dx, g - (1.0 - w) * dg
            partner = dg if perfect_correlation else dx
            spread = (1.0 - w) * (spread + w * jnp.real(jnp.conj(dx) * dx))
            response = (1.0 - w) * (response + w * jnp.real(jnp.conj(partner) * dg))
            curvature = curvature_kernel(response, spread, perfect_correlation)
            # Of the model, at the parameters; with its noise averaged out.
            slope = mean_gradient + curvature * (x - mean)
            slope = g if perfect_correlation else slope
            size = jnp.abs(curvature)
            known = size > 0.0
            way = -part * slope / jnp.where(known, size, 1.0)
            length, limit = jnp.abs(way), furthest * jnp.sqrt(spread)
            way = way * jnp.minimum(1.0, limit / jnp.where(length > 0.0, length, 1.0))
            step = jnp.where(known, way, -rate * g)
            return step, mean, mean_gradient, spread, response

        treedef = jax.tree.structure(point)
        trees = (point, gradient, *state[:4])
        results = [leaf(*arrays) for arrays in zip(*map(jax.tree.leaves, trees), strict=True)]
        step, *moments = (treedef.unflatten([result[i] for result in results]) for i in range(5))
        new = OgrDiagonalState(*moments, count=count, skipped=state.skipped)
        moves = _tree.step_or_stay(usable, step, params)
        return moves, _tree.accept_or_skip(usable, new, state)

    return link(init, update)
