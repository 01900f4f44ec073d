"""Every coordinate its own parabola: the diagonal OGR form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _tree
from parabolic_optax._types import link


class ScaleByCoordinatesState(NamedTuple):
    """State of :func:`scale_by_coordinates`.

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

    def restart(self) -> "ScaleByCoordinatesState":
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


def scale_by_coordinates(
    learning_rate: float = 1e-3,
    *,
    share: float = 0.5,
    reach: float = 1.0,
    decay: float = 0.9,
    perfect_correlation: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Step of :func:`parabolic_optax.ogr_diagonal`, from gradients to updates.

    One link rather than four: records of one parabola per coordinate would be whole trees.

    Args:
      learning_rate: as in :func:`parabolic_optax.ogr_diagonal`.
      share: as there.
      reach: as there.
      decay: as there.
      perfect_correlation: as there.

    Returns:
      A transformation that needs ``update(grads, state, params)``; state: 4 buffers like the
      parameters, in at least float32.

    Raises:
      ValueError: a constant is out of range; in the update, ``params`` is missing or does not
        match the gradients.
      TypeError: a parameter is not of floating type.

    Source:
      Duda, arXiv:1901.11457 and 1907.07063.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> from parabolic_optax._coordinates import curvature_kernel
      >>> print(curvature_kernel(jnp.float32(-6.0), jnp.float32(2.0), perfect=False))
      -3.0
    """
    _tree.check_range("decay", decay, 0.0, 1.0)
    for name, value in (("learning_rate", learning_rate), ("share", share), ("reach", reach)):
        _tree.check_range(name, value, 0.0)

    def init(params: Any) -> ScaleByCoordinatesState:
        _tree.check_floating(params)
        mean = _tree.wide(params)

        def real() -> Any:
            return jax.tree.map(lambda m: jnp.zeros_like(jnp.real(m)), mean)

        return ScaleByCoordinatesState(
            mean=mean,
            mean_gradient=jax.tree.map(jnp.zeros_like, mean),
            spread=real(),
            response=real(),
            count=jnp.zeros([], jnp.int32),
            skipped=jnp.zeros([], jnp.int32),
        )

    def update(
        updates: Any, state: ScaleByCoordinatesState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByCoordinatesState]:
        del extra_args
        _tree.check_match(updates, params)
        point, gradient = (
            jax.tree.map(lambda x, m: x.astype(m.dtype), tree, state.mean)
            for tree in (params, updates)
        )
        square = _tree.dot(gradient, gradient)
        usable = jnp.isfinite(square) & (square > 0.0)
        count = jnp.asarray(optax.safe_increment(state.count))
        weight = jnp.maximum(1.0 - decay, 1.0 / count.astype(square.dtype)).astype(square.dtype)
        first = state.count == 0

        def leaf(x, g, mean, mean_gradient, spread, response):
            w = weight.astype(spread.dtype)
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
            way = -share * slope / jnp.where(known, size, 1.0)
            length, limit = jnp.abs(way), reach * jnp.sqrt(spread)
            way = way * jnp.minimum(1.0, limit / jnp.where(length > 0.0, length, 1.0))
            step = jnp.where(known, way, -learning_rate * g)
            return step, mean, mean_gradient, spread, response

        treedef = jax.tree.structure(point)
        trees = (point, gradient, *state[:4])
        results = [leaf(*arrays) for arrays in zip(*map(jax.tree.leaves, trees), strict=True)]
        step, *moments = (treedef.unflatten([result[i] for result in results]) for i in range(5))
        moves = jax.tree.map(lambda s, p: jnp.where(usable, s, 0.0).astype(p.dtype), step, params)
        skipped = jnp.asarray(optax.safe_increment(state.skipped))
        new = ScaleByCoordinatesState(*moments, count=count, skipped=state.skipped)
        return moves, _tree.where(usable, new, state._replace(skipped=skipped))

    return link(init, update)
