"""What happens to steps when training is disturbed: ``python -m benchmarks.disturbed``.

Rare rows and changing data raise alarms that no shorter step can end; a task that is solved leaves
gradients so small that steps could grow without end. Problems, three seeds each:

- ``rare``: one row of a thousand is of the other class; held-out loss of the averaged parameters.
- ``weighted``: the same with classes that weigh the same, in training and held out.
- ``copies``: a transformer of two blocks reads the same eight letters twice and has to foresee the
  second time, which it can do exactly; loss on others at the end.
- ``labels``: digits, whose labels are permuted anew every 200 steps; the loss of every batch before
  it is trained on, mean over the second half of the run.
- ``columns``: the same with permuted pixels.
- ``drift``: regression on a network that turns slowly; judged as these two.

Printed are medians, and their ratios to that of Adam at its best constant rate (a star: the largest
or smallest of those that were tried), averaged in the first three problems.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

import parabolic_optax as po
from benchmarks import data, layers
from benchmarks.optimizers import read_out, step_size
from parabolic_optax._demo.optimizers import with_tail_mean

RATES = tuple(2.0**-power for power in range(11, 3, -1))
MAKERS = (po.parabolic_adamw, po.parabolic_muon, po.parabolic_sgd, po.parabolic_adam)
OPTIMIZERS = {f"{make.__name__}()": make for make in MAKERS} | {
    f"{make.__name__}(window=300)": functools.partial(make, window=300) for make in MAKERS
}


class Problem(NamedTuple):
    """A loss that may depend on the time, and what is judged at the end, or None for the losses."""

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array]
    steps: int
    held_out: Callable[[Any], jax.Array] | None = None


def rare(weighted: bool) -> Problem:
    def rows(seed: int, number: int = 20_000):
        rng = np.random.default_rng(seed)
        labels = (rng.random(number) < 1e-3).astype(np.float32)
        inputs = rng.normal(size=(number, 10)).astype(np.float32)
        inputs[:, 0] += 3.0 * labels
        inputs[:, 1] += 2.0 * labels * np.sign(inputs[:, 2])
        return jnp.asarray(inputs), jnp.asarray(labels)

    (inputs, labels), held_out = rows(0), rows(1)

    def loss(params, inputs, labels):
        logits = layers.mlp(params, inputs)[:, 0]
        weights = jnp.where(weighted & (labels > 0), 1e3, 1.0)
        return jnp.mean(weights * optax.sigmoid_binary_cross_entropy(logits, labels))

    def drawn(params, key, _):
        chosen = jax.random.randint(key, (64,), 0, len(labels))
        return loss(params, inputs[chosen], labels[chosen])

    def init(key):
        return layers.mlp_init(key, (10, 32, 32, 1))

    return Problem(init, drawn, 1500, lambda params: loss(params, *held_out))


def copies(letters: int = 8, length: int = 8, width: int = 32) -> Problem:
    def init(key):
        keys = jax.random.split(key, 5)
        return {
            "letters": 0.3 * jax.random.normal(keys[0], (letters, width)),
            "places": 0.3 * jax.random.normal(keys[1], (2 * length, width)),
            "blocks": [layers.block_init(each, width) for each in keys[2:4]],
            "norm": layers.norm_init(width),
            "head": layers.dense_init(keys[4], width, letters, layers.lecun),
        }

    def loss(params, key, _=None, batch=16):
        once = jax.random.randint(key, (batch, length), 0, letters)
        twice = jnp.concatenate([once, once], 1)
        x = params["letters"][twice] + params["places"]
        for block in params["blocks"]:
            x = layers.block(block, x, 2, causal=True)
        logits = layers.dense(params["head"], layers.layer_norm(params["norm"], x))
        return layers.cross_entropy(logits[:, length - 1 : -1], once)

    return Problem(init, loss, 2000, lambda params: loss(params, jax.random.key(99), batch=128))


def permuted(what: str, every: int = 200, times: int = 20) -> Problem:
    inputs, labels = (jnp.asarray(part) for part in data.digits().train)

    def loss(params, key, time):
        chosen = jax.random.randint(key, (64,), 0, len(labels))
        x, y, order = inputs[chosen], labels[chosen], jax.random.key(time // every)
        if what == "labels":
            y = jax.random.permutation(order, 10)[y]
        else:
            x = x[:, jax.random.permutation(order, x.shape[1])]
        return layers.cross_entropy(layers.mlp(params, x), y)

    return Problem(lambda key: layers.mlp_init(key, (64, 64, 64, 10)), loss, every * times)


def drift(speed: float = 3e-4) -> Problem:
    ends = [layers.mlp_init(jax.random.key(n), (8, 16, 1), layers.lecun) for n in (1, 2)]

    def loss(params, key, time):
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], (16, 8))
        shares = jnp.cos(speed * time), jnp.sin(speed * time)
        teacher = jax.tree.map(lambda one, other: shares[0] * one + shares[1] * other, *ends)
        y = 2.0 * layers.mlp(teacher, x, jnp.tanh) + 0.3 * jax.random.normal(keys[1], (16, 1))
        return jnp.mean((layers.mlp(params, x, jnp.tanh) - y) ** 2)

    return Problem(lambda key: layers.mlp_init(key, (8, 32, 32, 1), layers.lecun), loss, 6000)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "rare": lambda: rare(weighted=False),
    "weighted": lambda: rare(weighted=True),
    "copies": copies,
    "labels": lambda: permuted("labels"),
    "columns": lambda: permuted("columns"),
    "drift": drift,
}


def run(problem: Problem, optimizer: optax.GradientTransformation, key: jax.Array):
    """What is judged, of the parameters and of what is read out; the step sizes [steps], or 0."""

    def step(carry, drawn):
        params, state = carry
        time, key = drawn
        value, grads = jax.value_and_grad(problem.loss)(params, key, time)
        # What is judged at the end needs no second loss in every step.
        ahead = value if problem.held_out else problem.loss(read_out(state, params), key, time)
        updates, state = optimizer.update(grads, state, params)
        moved = optax.apply_updates(params, updates), state
        return moved, (value, ahead, step_size(state))

    own, drawn = jax.random.split(key)
    params = problem.init(own)
    drawn = jnp.arange(problem.steps), jax.random.split(drawn, problem.steps)
    (params, state), (*losses, sizes) = jax.lax.scan(step, (params, optimizer.init(params)), drawn)
    if problem.held_out:
        return problem.held_out(params), problem.held_out(read_out(state, params)), sizes
    return *(jnp.mean(values[problem.steps // 2 :]) for values in losses), sizes


def over_seeds(problem: Problem, make: Callable[[], Any], seeds: int) -> list[np.ndarray]:
    keys = jax.random.split(jax.random.key(0), seeds)
    results = jax.jit(jax.vmap(lambda key: run(problem, make(), key)))(keys)
    return [np.asarray(each) for each in results]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disturbed", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table = Table("problem", "optimizer", "loss", "÷ Adam", "read out", "÷ Adam", "last step size")
    for name in options.problems:
        problem = PROBLEMS[name]()
        ends = []
        for rate in track(RATES, description=f"{name}, Adam"):
            adam = functools.partial(with_tail_mean, optax.adam(rate))
            ends.append([np.median(each) for each in over_seeds(problem, adam, options.seeds)[:2]])
        # A mean over a tenth of the run is of no use where the problem changes.
        losses = np.array(ends)[:, 1 if problem.held_out else 0]
        place = int(np.nanargmin(losses))
        best, star = losses[place], "*" if place in (0, len(RATES) - 1) else ""
        table.add_section()
        table.add_row(name, f"Adam at {RATES[place]:.2g}{star}", f"{best:.3g}")
        for optimizer in track(options.optimizers, description=f"{name}, ours"):
            *judged, sizes = over_seeds(problem, OPTIMIZERS[optimizer], options.seeds)
            row = [f"{v:.3g}" for end in judged for v in (np.median(end), np.median(end) / best)]
            table.add_row("", optimizer, *row, f"{np.median(sizes[:, -1]):.2g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
