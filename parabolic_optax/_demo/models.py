"""The Flax NNX models: a perceptron for images, a small transformer for characters."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from parabolic_optax._demo.data import Dataset


class Perceptron(nnx.Module):
    def __init__(self, sizes: tuple[int, ...], *, rngs: nnx.Rngs):
        he = nnx.initializers.he_normal()
        self.layers = nnx.List(
            nnx.Linear(fan_in, fan_out, kernel_init=he, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


class Block(nnx.Module):
    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.widen = nnx.Linear(width, 2 * width, rngs=rngs)
        self.narrow = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.widen(self.norm_mlp(x))))


class CharacterTransformer(nnx.Module):
    def __init__(self, classes: int, window: int, width: int, depth: int, *, rngs: nnx.Rngs):
        self.characters = nnx.Embed(classes, width, rngs=rngs)
        self.places = nnx.Embed(window, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, heads=4, rngs=rngs) for _ in range(depth))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.characters(x) + self.places(jnp.arange(x.shape[-1]))
        for block in self.blocks:
            x = block(x, mask)
        return self.readout(self.norm(x))


def build(dataset: Dataset, seed: int) -> tuple[nnx.Module, str]:
    """The model for a data set, and its name."""
    rngs = nnx.Rngs(seed)
    if dataset.kind == "text":
        width, depth, window = 64, 2, dataset.train[0].shape[-1]
        model = CharacterTransformer(dataset.classes, window, width, depth, rngs=rngs)
        return model, f"transformer, {depth} blocks of width {width}"
    inputs = dataset.train[0].shape[-1]
    hidden = 64 if inputs == 64 else 128
    sizes = (inputs, hidden, hidden, dataset.classes)
    return Perceptron(sizes, rngs=rngs), "perceptron " + "-".join(map(str, sizes))
