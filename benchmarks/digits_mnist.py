"""Ours without a learning rate against Adam with warm-up and cosine at its best rate.

``python -m benchmarks.digits_mnist`` trains the demo's models on the digits and on 5,000
images of MNIST with 5 seeds each, prints the median final held-out losses as a table, and
stores every number in ``benchmarks/results/digits_mnist.json``.
"""

import argparse
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from parabolic_optax._demo import data, models
from parabolic_optax._demo.cli import DEFAULT_LENGTH
from parabolic_optax._demo.report import environment
from parabolic_optax._demo.train import draw_batches

RATES = (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2)
INITIAL_STEPS = (1e-8, 1e-6, 1e-4, 1e-2)
RESULTS = pathlib.Path(__file__).parent / "results"


def adam_cosine(rate: jax.Array, steps: int) -> optax.GradientTransformation:
    """Adam with a linear warm-up over a twentieth of the run, then cosine decay to 0."""
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, steps // 20), steps)
    return optax.chain(
        optax.scale_by_adam(), optax.scale_by_schedule(lambda count: -rate * shape(count))
    )


def adam_constant(rate: jax.Array, steps: int) -> optax.GradientTransformation:
    """Adam at a constant rate, which `final_losses` also reads out averaged."""
    del steps
    return optax.chain(optax.scale_by_adam(), optax.scale(-rate))


def ours(make):
    """Wraps a constructor of the package so that the varied constant is the initial step."""
    return lambda initial_step, steps: make(initial_step=initial_step)


CONTENDERS = {
    "Adam, warm-up + cosine": (adam_cosine, RATES),
    "Adam, constant, same averaging": (adam_constant, RATES),
    "parabolic_adam()": (ours(po.parabolic_adam), INITIAL_STEPS),
    "parabolic_sgd()": (ours(po.parabolic_sgd), INITIAL_STEPS),
}


def final_losses(name: str, make, constants, seeds: int) -> np.ndarray:
    """Held-out losses, shape [2, constants, seeds]: of the last step, and averaged."""
    dataset = data.load(name)
    steps, batch = DEFAULT_LENGTH[name]
    rows = len(dataset.train[0])
    train_set, held_out = jax.tree.map(jnp.asarray, (dataset.train, dataset.held_out))
    graphdef = nnx.graphdef(models.build(dataset, 0)[0])
    # The seeds of the demo and of all development runs are not among these.
    starts = [nnx.state(models.build(dataset, 1000 + seed)[0]) for seed in range(seeds)]
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    batches = np.stack([draw_batches(rows, steps, batch, 1000 + seed) for seed in range(seeds)])

    def loss(params, examples):
        logits = nnx.merge(graphdef, params)(examples[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples[1]).mean()

    def run(constant, params, batches):
        optimizer = make(constant, steps)

        def step(carry, inputs):
            params, state, average = carry
            count, drawn = inputs
            grads = jax.grad(loss)(params, jax.tree.map(lambda column: column[drawn], train_set))
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            weight = 10.0 / (count + 10.0)
            average = jax.tree.map(lambda m, p: m + weight * (p - m), average, params)
            return (params, state, average), None

        carry = (params, optimizer.init(params), params)
        (params, state, average), _ = jax.lax.scan(step, carry, (jnp.arange(steps), batches))
        if make not in (adam_cosine, adam_constant):
            average = po.eval_params(state, params)
        return loss(params, held_out), loss(average, held_out)

    all_seeds = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))
    return np.asarray(
        [all_seeds(jnp.float32(constant), starts, batches) for constant in constants]
    ).swapaxes(0, 1)


def summary(record: dict) -> str:
    """The best constant of every Adam and the default of ours, as a Markdown table."""
    names = list(dict.fromkeys(run["data"] for run in record["runs"]))
    lines = ["| held-out loss (ratio) | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for label in CONTENDERS:
        cells = []
        for name in names:
            run = next(r for r in record["runs"] if (r["data"], r["optimizer"]) == (name, label))
            tuned = label.startswith("Adam")
            at = int(np.argmin(run["median"])) if tuned else run["constants"].index(1e-6)
            constant = f" at {run['constants'][at]:.0e}" if tuned else ""
            cells.append(
                f"{run['median'][at]:.4f} ({run['ratio_to_best_cosine'][at]:.3f}){constant}"
            )
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    console, record = Console(), {"environment": environment(), "seeds": options.seeds, "runs": []}
    for name in options.data:
        evaluate = functools.partial(final_losses, name, seeds=options.seeds)
        table = Table("optimizer", "constant", "held-out", "of cosine", title=name, box=None)
        best = None
        for label, (make, constants) in CONTENDERS.items():
            last, average = evaluate(make, constants)
            # The cosine ends at rate 0 and needs no averaging; the others are read out averaged.
            losses = last if make is adam_cosine else average
            medians = np.median(losses, axis=1)
            best = medians.min() if best is None else best
            for constant, median in zip(constants, medians, strict=True):
                table.add_row(label, f"{constant:.0e}", f"{median:.4f}", f"{median / best:.3f}")
            record["runs"].append(
                {
                    "data": name,
                    "optimizer": label,
                    "constants": list(constants),
                    "last": last.tolist(),
                    "averaged": average.tolist(),
                    "median": medians.tolist(),
                    "ratio_to_best_cosine": (medians / best).tolist(),
                }
            )
        console.print(table)
    print(summary(record))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "digits_mnist.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
