"""Sequences: recurrent networks of characters and measurements, and a pre-norm transformer."""

import jax

from benchmarks import data
from benchmarks.layers import (
    Params,
    block,
    block_init,
    cross_entropy,
    dense,
    dense_init,
    gru,
    gru_init,
    layer_norm,
    lecun,
    norm_init,
)
from benchmarks.workloads.workload import Workload, squared_error, supervised


def transformer(name, dataset, width, blocks, *, batch, steps, heads=4) -> Workload:
    window = dataset.train[0].shape[-1]

    def init(key) -> Params:
        keys = jax.random.split(key, blocks + 3)
        params = {
            "characters": 0.02 * jax.random.normal(keys[0], (dataset.classes, width)),
            "places": 0.02 * jax.random.normal(keys[1], (window, width)),
            "norm": norm_init(width),
            "readout": dense_init(keys[2], width, dataset.classes, lecun),
        }
        return params | {f"block{n}": block_init(keys[n + 3], width) for n in range(blocks)}

    def apply(params, x):
        x = params["characters"][x] + params["places"][None]
        for number in range(blocks):
            x = block(params[f"block{number}"], x, heads, causal=True)
        return dense(params["readout"], layer_norm(params["norm"], x))

    return supervised(name, dataset, init, apply, cross_entropy, batch=batch, steps=steps)


def recurrent(name, dataset, width, *, batch, steps) -> Workload:
    def init(key) -> Params:
        keys = jax.random.split(key, 3)
        return {
            "characters": jax.random.normal(keys[0], (dataset.classes, width)),
            "gru": gru_init(keys[1], width, width),
            "readout": dense_init(keys[2], width, dataset.classes, lecun),
        }

    def apply(params, x):
        return dense(params["readout"], gru(params["gru"], params["characters"][x]))

    return supervised(name, dataset, init, apply, cross_entropy, batch=batch, steps=steps)


def forecast(name, dataset, width, *, batch, steps) -> Workload:
    """What comes next in a series of measurements, at every hour of a window."""
    columns = dataset.train[0].shape[-1]

    def init(key) -> Params:
        keys = jax.random.split(key, 2)
        return {
            "gru": gru_init(keys[0], columns, width),
            "readout": dense_init(keys[1], width, 1, lecun),
        }

    def apply(params, x):
        return dense(params["readout"], gru(params["gru"], x))

    return supervised(name, dataset, init, apply, squared_error, batch=batch, steps=steps)


MAKERS = {
    # development
    "bible_transformer": lambda: transformer(
        "bible_transformer", data.bible(), 32, 2, batch=16, steps=800
    ),
    "bible_gru": lambda: recurrent("bible_gru", data.bible(), 48, batch=16, steps=400),
    # confirmation
    "austen_transformer": lambda: transformer(
        "austen_transformer", data.austen(), 32, 2, batch=8, steps=250
    ),
    "austen_gru": lambda: recurrent("austen_gru", data.austen(), 48, batch=8, steps=250),
    # audit
    "code_transformer": lambda: transformer(
        "code_transformer", data.code(), 32, 2, batch=16, steps=500
    ),
    "weather_gru": lambda: forecast("weather_gru", data.weather(), 32, batch=16, steps=400),
    # accelerator: the blocks of GPT-2 small, 85 million parameters
    "austen_gpt2": lambda: transformer(
        "austen_gpt2", data.austen(256, held_out=64), 768, 12, batch=16, steps=400, heads=12
    ),
}
