"""Fine-tuning: networks that have been trained on one part of the data go on with another.

The first training belongs to the problem, and is the same for all seeds and methods.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from benchmarks import data
from benchmarks.data import Data, of_kinds
from benchmarks.layers import Params
from benchmarks.workloads.images import convolutional
from benchmarks.workloads.texts import transformer
from benchmarks.workloads.workload import Workload
from parabolic_optax._demo.train import draw_batches


def continued(source: Workload, target: Workload, fresh: Sequence[str] = ()) -> Workload:
    """`target` from the parameters that `source` ends with, but for new layers called `fresh`."""
    trained = _training(source)

    def init(key) -> Params:
        new = target.init(key)
        return trained() | {name: new[name] for name in fresh}

    return dataclasses.replace(target, init=init)


def adapted(source: Workload, target: Workload, rank: int) -> Workload:
    """`target` where corrections of low rank are trained alone, one for every matrix (LoRA)."""
    trained = _training(source)

    def init(key) -> list[Params]:
        kernels = [leaf for leaf in jax.tree.leaves(trained()) if leaf.ndim == 2]
        return [
            {
                "down": jax.random.normal(own, (len(kernel), rank)) / jnp.sqrt(len(kernel)),
                "up": jnp.zeros((rank, kernel.shape[1])),
            }
            for own, kernel in zip(jax.random.split(key, len(kernels)), kernels, strict=True)
        ]

    def corrected(params) -> Params:
        factors = iter(params)

        def correct(leaf):
            if leaf.ndim != 2:
                return leaf
            correction = next(factors)
            return leaf + correction["down"] @ correction["up"]

        return jax.tree.map(correct, trained())

    def loss(params, rows, key):
        return target.loss(corrected(params), rows, key)

    return dataclasses.replace(target, init=init, loss=loss)


def _training(source: Workload) -> Callable[[], Params]:
    """The parameters that Adam with cosine finds, once they are asked for."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, source.steps // 20, source.steps)
    optimizer = optax.adam(schedule)

    @jax.jit
    def train(params, columns, batches):
        def step(carry, rows):
            params, state = carry
            batch = jax.tree.map(lambda column: column[rows], columns)
            grads = jax.grad(source.loss)(params, batch, jax.random.key(0))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        return params

    @functools.cache
    def trained() -> Params:
        # Also where a problem is being compiled.
        with jax.ensure_compile_time_eval():
            batches = draw_batches(len(source.train[0]), source.steps, source.batch, 0)
            return train(source.init(jax.random.key(0)), source.train, batches)

    return trained


def _texts(name: str, texts: Data, pages: int = 4_000) -> tuple[Workload, Workload]:
    """A transformer on all but the last pages, and on these."""
    parts = (
        Data(tuple(column[own] for column in texts.train), texts.held_out, texts.classes)
        for own in (slice(-pages), slice(-pages, None))
    )
    source, target = (
        transformer(name, part, 32, 2, batch=16, steps=steps)
        for part, steps in zip(parts, (3_000, 300), strict=True)
    )
    return source, target


def _images(name: str, images: Data, before: Sequence[int], after: Sequence[int]) -> Workload:
    """A convolutional network on some classes, and with a new last layer on 500 of others."""
    source, target = (
        convolutional(name, of_kinds(images, kinds, rows), (14, 14, 1), (16, 32), steps=steps)
        for kinds, rows, steps in ((before, None, 600), (after, 500, 200))
    )
    return continued(source, target, fresh=("dense",))


MAKERS = {
    # development
    "fashion_continued": lambda: _images(
        "fashion_continued", data.fashion_small(), before=(1, 5, 7, 8, 9), after=(0, 2, 3, 4, 6)
    ),
    "bible_continued": lambda: continued(*_texts("bible_continued", data.bible())),
    "bible_adapted": lambda: adapted(*_texts("bible_adapted", data.bible()), rank=4),
    # confirmation
    "mnist_continued": lambda: _images(
        "mnist_continued", data.mnist_small(), before=(0, 1, 2, 3, 4), after=(5, 6, 7, 8, 9)
    ),
    "austen_continued": lambda: continued(*_texts("austen_continued", data.austen())),
    "austen_adapted": lambda: adapted(*_texts("austen_adapted", data.austen()), rank=4),
}
