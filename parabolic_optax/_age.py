"""How far back a run counts, and which of its steps are samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from parabolic_optax import _rounding, _tree

# After about k times as many steps the slope is sampled, and the means are moved, in every k-th.
_DENSE = 1024
# Largest k / 2, and steps per k / 2 beyond that, where the weight of one sample is so small that
# float32 would round most of its effect on a mean away.
_SPARSE, _ROUNDING = 4, 16384

# Steps forgotten for every step are 1 - 8 psi, psi the mean slope over its mean size: none from
# 1/8 on; at 0 as many as are taken, so that the run gets no older.
_FORGETS = 8.0
# Fewest steps that count. Means of fewer are too noisy, and every run begins with a tail that lags.
_LEAST = 300
# Power of the mean of those slopes: it looks back over half of what counts.
_MEMORY = 1.0


class Lag(NamedTuple):
    """Whether the tail follows the parameters.

    Attributes:
      means: running means of <g, theta - y>, y the tail, and of its size; float32 of shape [2].
      forgotten: number of steps at the start of the run that no longer count; float32 scalar.
    """

    means: jax.Array
    forgotten: jax.Array

    @classmethod
    def none(cls) -> "Lag":
        return cls(jnp.zeros(2, jnp.float32), jnp.zeros([], jnp.float32))

    def after(self, slope: jax.Array, stride: jax.Array, age: jax.Array) -> "Lag":
        """Takes in the slope in a sample that stands for so many steps, at this age of the run."""
        weight = _tree.sample_weight(stride, age, _MEMORY, most=0.5)
        seen = jnp.stack([slope, jnp.abs(slope)])
        return self._replace(means=_tree.follow(self.means, seen, weight))

    def forgetting(self, stride: jax.Array, count: jax.Array) -> "Lag":
        """Forgets what the means ask for, in so many steps, the last one the count."""
        forgotten = self.forgotten + stride * lag_kernel(*self.means)
        most = jnp.maximum(count - _LEAST, 0).astype(jnp.float32)
        return self._replace(forgotten=jnp.minimum(forgotten, most))

    def signal(self) -> jax.Array:
        """Mean slope over its mean size, and 1 where nothing was seen yet."""
        return _signal(*self.means)

    def age(self, count: jax.Array) -> jax.Array:
        """Number of steps that count, when so many have been taken."""
        return count - self.forgotten.astype(count.dtype)


def lag_kernel(slope: jax.Array, slope_size: jax.Array) -> jax.Array:
    """Steps to forget for every step.

    Args:
      slope: mean of <g, theta - y>, scalar.
      slope_size: mean of its size, scalar.

    Returns:
      max(1 - 8 slope / slope_size, 0): none where the loss rises on the way from the tail to the
      parameters, since the tail is then the better of the two; at most 9. 0 where nothing was
      seen yet.
    """
    return jnp.maximum(1.0 - _FORGETS * _signal(slope, slope_size), 0.0)


def _signal(slope: jax.Array, slope_size: jax.Array) -> jax.Array:
    return jnp.where(slope_size > 0.0, _tree.ratio(slope, slope_size), 1.0)


def within(count: jax.Array, window: float | jax.Array) -> jax.Array:
    """Number of the step, at most the window."""
    # An injected one may be of any type, and a float beyond the largest integer has none.
    most = jnp.clip(_tree.as_float32(window)[0], 2.0, 2.0**30).astype(count.dtype)
    return jnp.minimum(count, most)


def stride(age: jax.Array) -> jax.Array:
    """Number of steps that a sample stands for.

    Odd, so that parameters that jump to and fro are met on both sides, also at fixed places.
    """
    early, late = (jax.lax.div(age, jnp.asarray(n, age.dtype)) for n in (2 * _DENSE, _ROUNDING))
    return 1 + 2 * jnp.maximum(jnp.minimum(early, _SPARSE), late)


def due(count: jax.Array, stride: jax.Array) -> jax.Array:
    """Whether a step is a sample: one of every `stride` steps, never the same one for long.

    Minibatches in a fixed order would else be sampled by some of them alone, and parameters that
    jump to and fro be met on one side. So the place goes on by the golden section.
    """
    turn = jax.lax.div(count, stride).astype(jnp.uint32) * _rounding.GOLDEN
    place = ((turn >> 16) * stride.astype(jnp.uint32)) >> 16
    return jax.lax.rem(count, stride) == place.astype(count.dtype)
