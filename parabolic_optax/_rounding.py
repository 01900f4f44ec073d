"""Rounding up or down by chance, so that a mean kept in bfloat16 still follows.

In a long run one sample moves a mean by far less than bfloat16 can resolve, and rounded to the
nearest number it would stay where it is. Rounded by chance it is right on average. The chance
comes from a hash of where and when, not from a key, so that nothing more has to be kept and
the same run gives the same numbers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from parabolic_optax import _tree

# Bits of a float32 that bfloat16 leaves out.
_LOST = 16


def stochastic_kernel(x: jax.Array, dice: jax.Array) -> jax.Array:
    """One of the two neighbours of a number in bfloat16; the number itself on average.

    Args:
      x: float32 scalar.
      dice: uint32 scalar below 2^16, uniform.

    Returns:
      The neighbour of larger size if `dice` is at least 2^16 times the distance to it, in units
      of the distance between both, else the one of smaller size; bfloat16. What is not finite
      stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    rounded = ((bits + dice) >> _LOST).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(rounded, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def variance_kernel(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Variance that :func:`stochastic_kernel` gives a number, as two factors.

    Args:
      x: float32 scalar.

    Returns:
      Signed distances from the bfloat16 next to it in size, below it and above it; float32.
    """
    low = jax.lax.bitcast_convert_type(x, jnp.uint32) >> _LOST << _LOST
    high = low + jnp.uint32(1 << _LOST)
    below, above = (jax.lax.bitcast_convert_type(b, jnp.float32) for b in (low, high))
    return x - below, above - x


def hash_kernel(number: jax.Array) -> jax.Array:
    """Scatters uint32 numbers over all uint32 numbers, one to one.

    Source: multiply and xor-shift with the constants of C. Wellons, "hash-prospector", 2018.
    """
    number = (number ^ (number >> 16)) * jnp.uint32(0x7FEB352D)
    number = (number ^ (number >> 15)) * jnp.uint32(0x846CA68B)
    return number ^ (number >> 16)


def dice(tree: Any, count: jax.Array) -> Any:
    """32 random bits for every entry of every leaf, uint32, by place, leaf and count."""
    leaves, treedef = jax.tree.flatten(tree)
    numbers = jnp.arange(len(leaves), dtype=jnp.uint32)
    seeds = hash_kernel(hash_kernel(count.astype(jnp.uint32)) + numbers)
    places = (_places(leaf.shape) for leaf in leaves)
    return treedef.unflatten(
        [hash_kernel(place ^ _tree.pick(seeds, n)) for n, place in enumerate(places)]
    )


def _places(shape: tuple[int, ...]) -> jax.Array:
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        # Places beyond 2^32 share their dice with others, which does no harm.
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        place = place + stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return place


def rounded(anchor: Any, tail: Any, count: jax.Array) -> tuple[Any, Any]:
    """Both means in bfloat16, by independent dice; complex leaves, and what is None, as is."""
    thrown = dice(anchor, count)
    return (
        jax.tree.map(lambda m, d: _round(m, d >> _LOST), anchor, thrown),
        None if tail is None else jax.tree.map(lambda m, d: _round(m, d & 0xFFFF), tail, thrown),
    )


def _round(mean: jax.Array, thrown: jax.Array) -> jax.Array:
    return mean if jnp.iscomplexobj(mean) else stochastic_kernel(mean, thrown)


def distances(params: Any) -> tuple[Any, Any]:
    """Two trees; the products of their entries are the variances of rounded parameters."""
    pairs = jax.tree.map(
        lambda p: (p * 0, p * 0) if jnp.iscomplexobj(p) else variance_kernel(p.astype(jnp.float32)),
        params,
    )
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), pairs)
