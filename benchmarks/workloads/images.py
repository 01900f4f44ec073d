"""Images and signals: perceptrons, convolutions, residual and attention networks, codes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import data
from benchmarks.layers import (
    Params,
    batch_norm,
    block,
    block_init,
    conv,
    conv_init,
    cross_entropy,
    dense,
    dense_init,
    layer_norm,
    mlp,
    mlp_init,
    norm_init,
)
from benchmarks.workloads.workload import Workload, squared_error, supervised


def perceptron(name, dataset, hidden, *, steps, activation=jax.nn.relu, gain=1.0) -> Workload:
    """A perceptron with He initialisation, times `gain`; no hidden layer is softmax regression."""
    sizes = (dataset.train[0].shape[-1], *hidden, dataset.classes)

    def init(key):
        return jax.tree.map(lambda leaf: gain * leaf, mlp_init(key, sizes))

    apply = functools.partial(mlp, activation=activation)
    return supervised(name, dataset, init, apply, cross_entropy, batch=64, steps=steps)


def convolutional(name, dataset, shape, channels, *, steps) -> Workload:
    """Convolutions of stride 2 and a dense layer, without any normalisation."""
    sides = [shape[0]]
    for _ in channels:
        sides.append(-(-sides[-1] // 2))
    features = channels[-1] * sides[-1] ** (len(shape) - 1)

    def init(key) -> Params:
        keys = jax.random.split(key, len(channels) + 1)
        fan_in, params = shape[-1], {}
        for number, fan_out in enumerate(channels):
            params[f"conv{number}"] = conv_init(keys[number], 3, fan_in, fan_out, len(shape) - 1)
            fan_in = fan_out
        return params | {"dense": dense_init(keys[-1], features, dataset.classes)}

    def apply(params, x):
        x = x.reshape(-1, *shape)
        for number in range(len(channels)):
            x = jax.nn.relu(conv(params[f"conv{number}"], x, stride=2))
        return dense(params["dense"], x.reshape(x.shape[0], -1))

    return supervised(name, dataset, init, apply, cross_entropy, batch=64, steps=steps)


def residual(name, dataset, side, width, blocks, *, steps, normalise) -> Workload:
    """Residual blocks of two convolutions at one width, with or without batch normalisation.

    There are no running statistics: the evaluation recomputes them at the parameters it is
    given, from training rows that it puts in front of the held-out ones.
    """
    reference, judged = 256, 512

    def init(key) -> Params:
        keys = iter(jax.random.split(key, 2 * blocks + 2))
        params: Params = {"stem": conv_init(next(keys), 3, 1, width)}
        for number in range(blocks):
            first, second = (conv_init(next(keys), 3, width, width) for _ in range(2))
            # Without a normalisation the second convolution starts at zero, as in Fixup.
            if not normalise:
                second = jax.tree.map(jnp.zeros_like, second)
            params[f"block{number}"] = {"first": first, "second": second}
            if normalise:
                params[f"block{number}"] |= {"norm1": norm_init(width), "norm2": norm_init(width)}
        return params | {"dense": dense_init(next(keys), width, dataset.classes)}

    def apply(params, x, rows=None):
        x = jax.nn.relu(conv(params["stem"], x.reshape(-1, side, side, 1), stride=2))
        for number in range(blocks):
            layer = params[f"block{number}"]
            y = conv(layer["first"], x)
            y = jax.nn.relu(batch_norm(layer["norm1"], y, rows) if normalise else y)
            y = conv(layer["second"], y)
            x = jax.nn.relu(x + (batch_norm(layer["norm2"], y, rows) if normalise else y))
        return dense(params["dense"], x.mean((1, 2)))

    def evaluate(params, held_out):
        seen, inputs, labels = held_out
        logits = apply(params, jnp.concatenate([seen, inputs]), len(seen))
        return cross_entropy(logits[len(seen) :], labels)

    return Workload(
        name,
        init,
        lambda params, rows, key: cross_entropy(apply(params, rows[0]), rows[1]),
        dataset.train,
        (dataset.train[0][:reference], *(column[:judged] for column in dataset.held_out)),
        batch=64,
        steps=steps,
        evaluate=evaluate,
    )


def vision_transformer(name, dataset, side, patch, width, blocks, *, steps) -> Workload:
    """Patches, learned places, pre-norm blocks, and the mean over the patches."""
    count = (side // patch) ** 2

    def init(key) -> Params:
        keys = jax.random.split(key, blocks + 3)
        params = {
            "patches": dense_init(keys[0], patch**2, width),
            "places": 0.02 * jax.random.normal(keys[1], (count, width)),
            "norm": norm_init(width),
            "dense": dense_init(keys[2], width, dataset.classes),
        }
        return params | {f"block{n}": block_init(keys[n + 3], width) for n in range(blocks)}

    def apply(params, x):
        rows = len(x)
        x = x.reshape(rows, side // patch, patch, side // patch, patch).swapaxes(2, 3)
        x = dense(params["patches"], x.reshape(rows, count, patch**2)) + params["places"][None]
        for number in range(blocks):
            x = block(params[f"block{number}"], x, heads=4, causal=False)
        return dense(params["dense"], layer_norm(params["norm"], x).mean(1))

    return supervised(name, dataset, init, apply, cross_entropy, batch=64, steps=steps)


def autoencoder(name, dataset, hidden, *, steps) -> Workload:
    """A deep tanh code of images; the loss is the cross-entropy of all pixels of an image."""
    pixels = dataset.train[0].shape[-1]
    sizes = (pixels, *hidden, *hidden[-2::-1], pixels)

    def apply(params, x):
        return mlp(params, x, jnp.tanh)

    images = dataset._replace(
        train=(dataset.train[0],) * 2,
        held_out=(dataset.held_out[0],) * 2,
    )
    return supervised(
        name, images, lambda key: mlp_init(key, sizes), apply, _pixel_loss, batch=64, steps=steps
    )


def variational_autoencoder(name, dataset, hidden, latent, *, steps) -> Workload:
    """The negative evidence bound of a Gaussian code with Bernoulli pixels."""
    pixels = dataset.train[0].shape[-1]

    def init(key) -> Params:
        encoder, decoder = jax.random.split(key)
        return {
            "encoder": mlp_init(encoder, (pixels, hidden, 2 * latent)),
            "decoder": mlp_init(decoder, (latent, hidden, pixels)),
        }

    def loss(params, rows, key):
        mean, log_scale = jnp.split(mlp(params["encoder"], rows[0]), 2, -1)
        code = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        divergence = 0.5 * (mean**2 + jnp.exp(2.0 * log_scale) - 1.0) - log_scale
        return _pixel_loss(mlp(params["decoder"], code), rows[0]) + divergence.sum(-1).mean()

    return Workload(
        name, init, loss, dataset.train[:1], dataset.held_out[:1], batch=64, steps=steps
    )


def field(name, dataset, octaves, hidden, *, steps) -> Workload:
    """A photograph as a function of place, by a perceptron on sines of several wavelengths."""
    frequencies = np.pi * 2.0 ** np.arange(octaves)

    def apply(params, x):
        phases = (x[:, :, None] * frequencies).reshape(len(x), -1)
        return mlp(params, jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], -1))

    sizes = (4 * octaves, *hidden, 3)
    return supervised(
        name, dataset, lambda key: mlp_init(key, sizes), apply, squared_error, batch=64, steps=steps
    )


def denoiser(name, dataset, channels, noise, *, steps) -> Workload:
    """Convolutions that take Gaussian noise off patches of photographs."""
    widths = (dataset.train[0].shape[-1], *channels, dataset.train[0].shape[-1])

    def init(key) -> Params:
        keys = jax.random.split(key, len(widths) - 1)
        return {
            f"conv{n}": conv_init(keys[n], 3, fan_in, fan_out)
            for n, (fan_in, fan_out) in enumerate(itertools.pairwise(widths))
        }

    def loss(params, rows, key):
        noisy = rows[0] + noise * jax.random.normal(key, rows[0].shape)
        x = noisy
        for n in range(len(channels)):
            x = jax.nn.relu(conv(params[f"conv{n}"], x))
        return jnp.mean((noisy - conv(params[f"conv{len(channels)}"], x) - rows[0]) ** 2)

    return Workload(
        name, init, loss, dataset.train[:1], dataset.held_out[:1], batch=16, steps=steps
    )


def deep_linear(name, dataset, depth, width, scale, *, steps) -> Workload:
    """A product of matrices that starts near zero, where every derivative but the last vanishes."""
    sizes = (dataset.train[0].shape[-1], *[width] * (depth - 1), dataset.classes)

    def init(key) -> Params:
        small = jax.nn.initializers.normal(scale)
        return mlp_init(key, sizes, small)

    def loss(outputs, labels):
        return squared_error(outputs, jax.nn.one_hot(labels, dataset.classes))

    apply = functools.partial(mlp, activation=lambda x: x)
    return supervised(name, dataset, init, apply, loss, batch=64, steps=steps)


def continual(name, dataset, hidden, *, tasks, steps) -> Workload:
    """Permuted columns: every `steps` the inputs are permuted anew, and the last task is judged."""
    rng = np.random.default_rng(0)
    permutations = [rng.permutation(dataset.train[0].shape[-1]) for _ in range(tasks)]
    inputs, labels = [], []
    for columns in permutations:
        rows = rng.choice(len(dataset.train[0]), steps * 64)
        inputs.append(dataset.train[0][rows][:, columns])
        labels.append(dataset.train[1][rows])
    permuted = dataset._replace(
        train=(np.concatenate(inputs), np.concatenate(labels)),
        held_out=(dataset.held_out[0][:, permutations[-1]], dataset.held_out[1]),
    )
    one = perceptron(name, permuted, hidden, steps=tasks * steps)
    return dataclasses.replace(one, in_order=True)


def _pixel_loss(logits: jax.Array, pixels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum(jax.nn.softplus(logits) - pixels * logits, -1))


MAKERS = {
    # development
    "mnist1d_mlp": lambda: perceptron("mnist1d_mlp", data.mnist1d(), (128, 128), steps=500),
    "mnist1d_tanh": lambda: perceptron(
        "mnist1d_tanh", data.mnist1d(), (64, 64, 64), steps=300, activation=jnp.tanh
    ),
    "mnist1d_cnn": lambda: convolutional(
        "mnist1d_cnn", data.mnist1d(), (40, 1), (24, 24, 24), steps=1000
    ),
    "mnist1d_continual": lambda: continual(
        "mnist1d_continual", data.mnist1d(), (64, 64), tasks=4, steps=200
    ),
    "fashion_mlp": lambda: perceptron("fashion_mlp", data.fashion_small(), (128, 128), steps=400),
    "fashion_cnn_bn": lambda: residual(
        "fashion_cnn_bn", data.fashion_small(), 14, 16, 1, steps=300, normalise=True
    ),
    "fashion_autoencoder": lambda: autoencoder(
        "fashion_autoencoder", data.fashion(), (256, 64, 16), steps=1200
    ),
    "fashion_few": lambda: perceptron("fashion_few", data.fashion_few(), (64, 64), steps=420),
    "fashion_few_bad_init": lambda: perceptron(
        "fashion_few_bad_init",
        data.fashion_few(),
        (64,) * 5,
        steps=500,
        activation=jnp.tanh,
        gain=3.0,
    ),
    "fashion_few_cnn": lambda: convolutional(
        "fashion_few_cnn", data.fashion_few(), (14, 14, 1), (16, 32), steps=400
    ),
    "fashion_softmax": lambda: perceptron("fashion_softmax", data.fashion_small(), (), steps=500),
    # confirmation
    "digits_mlp": lambda: perceptron("digits_mlp", data.digits(), (64, 64), steps=420),
    "mnist_mlp": lambda: perceptron("mnist_mlp", data.mnist(), (128, 128), steps=625),
    "mnist_softmax": lambda: perceptron("mnist_softmax", data.mnist_small(), (), steps=500),
    "digits_cnn": lambda: convolutional(
        "digits_cnn", data.digits(), (8, 8, 1), (16, 32), steps=400
    ),
    "digits_resnet_bn": lambda: residual(
        "digits_resnet_bn", data.digits(), 8, 16, 2, steps=400, normalise=True
    ),
    "mnist_resnet": lambda: residual(
        "mnist_resnet", data.mnist_small(), 14, 16, 2, steps=500, normalise=False
    ),
    "digits_vit": lambda: vision_transformer("digits_vit", data.digits(), 8, 2, 32, 2, steps=400),
    "mnist_vae": lambda: variational_autoencoder(
        "mnist_vae", data.mnist_small(), 128, 8, steps=800
    ),
    "digits_bad_init": lambda: perceptron(
        "digits_bad_init", data.digits(), (64,) * 5, steps=500, activation=jnp.tanh, gain=3.0
    ),
    "digits_continual": lambda: continual(
        "digits_continual", data.digits(), (64, 64), tasks=4, steps=150
    ),
    "digits_deep_linear": lambda: deep_linear(
        "digits_deep_linear", data.digits(), 4, 32, 0.03, steps=800
    ),
    # audit
    "photo_field": lambda: field("photo_field", data.photo_pixels(), 6, (64, 64, 64), steps=1000),
    "photo_denoiser": lambda: denoiser(
        "photo_denoiser", data.photo_patches(), (24, 24), 0.1, steps=300
    ),
    # accelerator
    "fashion_resnet": lambda: residual(
        "fashion_resnet", data.fashion(60_000, 10_000), 28, 64, 4, steps=2000, normalise=True
    ),
}
