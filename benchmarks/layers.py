"""The few layers that the workloads are built of: a dictionary of arrays and a function each."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]
he = jax.nn.initializers.he_normal()
lecun = jax.nn.initializers.lecun_normal()


def dense_init(key: jax.Array, fan_in: int, fan_out: int, kernel=he) -> Params:
    return {"kernel": kernel(key, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}


def dense(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def mlp_init(key: jax.Array, sizes: Sequence[int], kernel=he) -> Params:
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        f"layer{number}": dense_init(keys[number], fan_in, fan_out, kernel)
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
    }


def mlp(params: Params, x: jax.Array, activation: Callable = jax.nn.relu) -> jax.Array:
    *hidden, last = (params[f"layer{number}"] for number in range(len(params)))
    for layer in hidden:
        x = activation(dense(layer, x))
    return dense(last, x)


def conv_init(key: jax.Array, width: int, fan_in: int, fan_out: int, dimensions: int = 2) -> Params:
    return {
        "kernel": he(key, (*[width] * dimensions, fan_in, fan_out)),
        "bias": jnp.zeros(fan_out),
    }


def conv(params: Params, x: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution over all axes between the first and the last, as one product of matrices.

    XLA's own convolution is many times slower on a CPU inside of a loop.
    """
    kernel = params["kernel"]
    width, space = kernel.shape[0], x.shape[1:-1]
    before = width // 2
    padded = jnp.pad(x, ((0, 0), *[(before, width - 1 - before)] * len(space), (0, 0)))
    shifted = [
        padded[:, *(slice(o, o + size, stride) for o, size in zip(offset, space, strict=True))]
        for offset in itertools.product(range(width), repeat=len(space))
    ]
    patches = jnp.concatenate(shifted, -1)
    return patches @ kernel.reshape(patches.shape[-1], -1) + params["bias"]


def norm_init(width: int) -> Params:
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def layer_norm(params: Params, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(centred**2, -1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def batch_norm(params: Params, x: jax.Array, reference: int | None = None) -> jax.Array:
    """Normalises by the statistics of the first `reference` rows (all by default)."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x[:reference].mean(axes), x[:reference].var(axes)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def block_init(key: jax.Array, width: int) -> Params:
    """A pre-norm transformer block."""
    keys = jax.random.split(key, 4)
    return {
        "norm_attention": norm_init(width),
        "qkv": dense_init(keys[0], width, 3 * width, lecun),
        "mix": dense_init(keys[1], width, width, lecun),
        "norm_mlp": norm_init(width),
        "widen": dense_init(keys[2], width, 4 * width, lecun),
        "narrow": dense_init(keys[3], 4 * width, width, lecun),
    }


def block(params: Params, x: jax.Array, heads: int, causal: bool) -> jax.Array:
    rows, length, width = x.shape
    qkv = dense(params["qkv"], layer_norm(params["norm_attention"], x))
    query, key, value = jnp.split(qkv.reshape(rows, length, heads, -1), 3, -1)
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    x = x + dense(params["mix"], attended.reshape(rows, length, width))
    hidden = jax.nn.gelu(dense(params["widen"], layer_norm(params["norm_mlp"], x)))
    return x + dense(params["narrow"], hidden)


def gru_init(key: jax.Array, fan_in: int, width: int) -> Params:
    keys = jax.random.split(key, 2)
    return {
        "input": dense_init(keys[0], fan_in, 3 * width, lecun),
        "recurrent": jax.nn.initializers.orthogonal()(keys[1], (width, 3 * width)),
    }


def gru(params: Params, x: jax.Array) -> jax.Array:
    """From inputs of shape [rows, time, fan_in] to states of shape [rows, time, width]."""
    width = params["recurrent"].shape[0]

    def step(state, inputs):
        reset, update, new = jnp.split(inputs, 3, -1)
        from_state = jnp.split(state @ params["recurrent"], 3, -1)
        reset, update = (
            jax.nn.sigmoid(reset + from_state[0]),
            jax.nn.sigmoid(update + from_state[1]),
        )
        state = (1.0 - update) * jnp.tanh(new + reset * from_state[2]) + update * state
        return state, state

    inputs = jnp.swapaxes(dense(params["input"], x), 0, 1)
    _, states = jax.lax.scan(step, jnp.zeros((x.shape[0], width)), inputs)
    return jnp.swapaxes(states, 0, 1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
