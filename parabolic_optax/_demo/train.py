"""Trains one model with any optimizer, always from the same start and the same batches."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import parabolic_optax as po
from parabolic_optax._demo.data import Dataset
from parabolic_optax._demo.optimizers import Contender

# The host sees a run in about this many pieces: often enough for a live bar and a smooth
# held-out curve, rarely enough to cost nothing.
PIECES = 42


@dataclasses.dataclass
class Run:
    """What happened so far in one run.

    Attributes:
      name: the optimizer's name.
      rate: Adam's constant rate; None for ours.
      steps: the number of steps to do.
      curves: one value per step done: ``loss`` of the batch, ``step_size`` and
        ``curvature`` (ours only).
      held_out: one value per piece: ``step``, and ``loss`` and ``accuracy`` of the mean of the
        parameters over the last tenth of the steps so far.
      seconds: time of the steps so far, with compilation.
      step_seconds: time of a step without it, the median of the pieces.
    """

    name: str
    rate: float | None
    steps: int
    curves: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    held_out: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    step_seconds: float = 0.0

    @property
    def compile_seconds(self) -> float:
        return max(0.0, self.seconds - self.done * self.step_seconds)

    @property
    def done(self) -> int:
        return len(self.curves.get("loss", ()))

    @property
    def complete(self) -> bool:
        return self.done == self.steps

    def extend(self, curves: dict[str, Any], loss: Any, accuracy: Any) -> None:
        # Wait for the device first: an interruption then finds the record whole.
        pieces = {name: np.asarray(values).tolist() for name, values in curves.items()}
        step = self.done + len(pieces["loss"])
        reading = {"step": step, "loss": float(loss), "accuracy": float(accuracy)}
        for name, values in pieces.items():
            self.curves.setdefault(name, []).extend(values)
        for name, value in reading.items():
            self.held_out.setdefault(name, []).append(value)


def train(
    contender: Contender, model: nnx.Module, dataset: Dataset, batches: np.ndarray
) -> Iterator[Run]:
    """Yields the same growing record after every piece of the run.

    Args:
      contender: the optimizer.
      model: the start; it is not changed.
      dataset: what to train on.
      batches: row numbers of every batch, int of shape [steps, batch].
    """
    graphdef, params = nnx.split(model)
    state = contender.init(params)
    train_set, held_out = jax.tree.map(jnp.asarray, (dataset.train, dataset.held_out))
    run = Run(contender.name, contender.rate, len(batches))
    ours = contender.rate is None
    times = []
    for rows in np.split(batches, range(0, len(batches), -(-len(batches) // PIECES))[1:]):
        start = time.perf_counter()
        params, state, curves = jax.block_until_ready(
            _advance(graphdef, contender.transformation, ours, params, state, train_set, rows)
        )
        seconds = time.perf_counter() - start
        averaged = contender.averaged(state, params)
        run.extend(curves, *_evaluate(graphdef, averaged, held_out))
        times.append(seconds / len(rows))
        run.seconds += seconds
        run.step_seconds = float(np.median(times))
        yield run


def draw_batches(rows: int, steps: int, batch: int, seed: int) -> np.ndarray:
    """Row numbers of the batches of whole shuffled epochs, int32 of shape [steps, batch]."""
    rng = np.random.default_rng(seed)
    per_epoch = rows // batch
    epochs = [rng.permutation(rows)[: per_epoch * batch] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).astype(np.int32).reshape(-1, batch)[:steps]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(graphdef, transformation, ours, params, state, train_set, batches):
    def step(carry, rows):
        params, state = carry
        batch = jax.tree.map(lambda column: column[rows], train_set)
        loss, grads = jax.value_and_grad(lambda p: _loss(graphdef, p, batch)[0])(params)
        updates, state = transformation.update(grads, state, params)
        curves = {"loss": loss}
        if ours:
            readings = po.metrics(state)
            curves |= {name: readings[name] for name in ("step_size", "curvature")}
        return (optax.apply_updates(params, updates), state), curves

    (params, state), curves = jax.lax.scan(step, (params, state), batches)
    return params, state, curves


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(graphdef, params, batch):
    return _loss(graphdef, params, batch)


def _loss(graphdef, params, batch):
    """Mean cross-entropy and accuracy."""
    inputs, targets = batch
    logits = nnx.merge(graphdef, params)(inputs)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    return loss, jnp.mean(jnp.argmax(logits, -1) == targets)
