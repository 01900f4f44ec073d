"""Step-size rules: a :class:`Parabola` in, updates out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _tree
from parabolic_optax._types import Parabola, Per


class MultiplicativeState(NamedTuple):
    """Logarithm of the step size of each parabola, float32 of shape [n]."""

    log_step: jax.Array

    def readings(self) -> dict[str, jax.Array]:
        return {"step_size": jnp.exp(self.log_step)}

    def restart(self) -> "MultiplicativeState":
        return self


def multiplicative_kernel(
    log_step: jax.Array,
    drive: jax.Array,
    count: jax.Array,
    growth: float | jax.Array,
    decline: float | jax.Array,
    max_rate: float | jax.Array,
) -> jax.Array:
    """Next logarithm of the step size, one parabola.

    Args:
      log_step: logarithm of the step size, scalar.
      drive: wanted direction of change in [-1, 1], positive for a longer step; scalar.
      count: number of the sample, scalar.
      growth: the rate of increase is growth / count.
      decline: the rate of decrease is decline / count.
      max_rate: upper bound of both.

    Returns:
      log_step + rate * drive.
    """
    rate = jnp.where(drive > 0.0, growth, decline) / count
    return log_step + jnp.minimum(max_rate, rate) * drive


def step_multiplicative(
    *,
    initial_step: float = 1e-6,
    growth: float = 5.0,
    decline: float = 0.75,
    max_rate: float = 0.1,
    overshoot: float = 0.1,
    per: Per = "tensor",
) -> optax.GradientTransformationExtraArgs:
    _tree.check_range("initial_step", initial_step, jnp.finfo(jnp.float32).tiny)
    for name, value in [("growth", growth), ("decline", decline), ("max_rate", max_rate)]:
        _tree.check_range(name, value, 0.0)
    _tree.check_range("overshoot", overshoot, 0.0, 1.0)

    def init(params: Any) -> MultiplicativeState:
        size = _tree.Layout.of(params, per).size
        return MultiplicativeState(jnp.full(size, jnp.log(initial_step), jnp.float32))

    def update(
        updates: Parabola, state: MultiplicativeState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, MultiplicativeState]:
        del params, extra_args
        sample = updates.sample
        layout = _tree.Layout.of(sample.update, per)
        toward = jnp.sign(updates.offset)
        drive = toward * jnp.abs(updates.signal) + overshoot
        count = sample.count.astype(jnp.float32)
        log_step = jax.vmap(multiplicative_kernel, in_axes=(0, 0) + (None,) * 4)(
            state.log_step, drive, count, growth, decline, max_rate
        )
        # The step size of the previous step keeps the inner products out of the way of the
        # update loop: both run in one pass over the parameters.
        steps = layout.spread(jnp.exp(state.log_step), sample.update)
        moved = jax.tree.map(lambda u, h: h.astype(u.dtype) * u, sample.update, steps)
        return moved, MultiplicativeState(jnp.where(sample.finite, log_step, state.log_step))

    return optax.GradientTransformationExtraArgs(init, update)
