"""What becomes of a network after it has memorized its data: ``python -m benchmarks.memorized``.

A perceptron of 128 hidden units learns 1,527 digits by heart in a few hundred steps of 64, or, with
``--data points``, 32 random points in steps of all of them, until nothing is left of the loss in
float32, and is trained on. Printed are, of twelve runs (two initialisations, six seeds), those in
which the loss of a batch is above 1 again after step 150, the worst accuracy of the averaged
parameters (on 270 other digits; on the points themselves), and the largest step size after step
300.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import parabolic_optax as po
from benchmarks import layers
from benchmarks.optimizers import read_out, step_size
from parabolic_optax._demo.optimizers import with_tail_mean

OPTIMIZERS = {
    "parabolic_adamw()": po.parabolic_adamw,
    "parabolic_adamw(weight_decay=0.1)": lambda: po.parabolic_adamw(weight_decay=0.1),
    "parabolic_adamw(weight_decay=1e-4)": lambda: po.parabolic_adamw(weight_decay=1e-4),
    "parabolic_adamw(weight_decay=0)": lambda: po.parabolic_adamw(weight_decay=0),
    "parabolic_muon()": po.parabolic_muon,
    "parabolic_muon(weight_decay=0)": lambda: po.parabolic_muon(weight_decay=0),
    "parabolic_adam()": po.parabolic_adam,
    "parabolic_sgd()": po.parabolic_sgd,
    "adam(0.01), averaged": lambda: with_tail_mean(optax.adam(0.01)),
}
GAINS = (1.0, 2.0)


def digits() -> tuple[list[jax.Array], int]:
    """Images and digits to learn, others to see what was learned; the size of a batch."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16.0, labels, test_size=0.15, random_state=0)
    images, test_images, labels, test_labels = (jnp.asarray(part) for part in split)
    return [images, labels, test_images, test_labels], 64


def points() -> tuple[list[jax.Array], int]:
    """Random points of random classes, twice: nothing can be learned of others."""
    keys = jax.random.split(jax.random.key(0))
    both = [jax.random.normal(keys[0], (32, 16)), jax.random.randint(keys[1], (32,), 0, 10)]
    return [*both, *both], 32


DATA = {"digits": digits, "points": points}


def runs(optimizer: optax.GradientTransformation, steps: int, seeds: int, data: str = "digits"):
    """Losses [runs, steps], step sizes [runs, steps] (0 for others) and accuracies [runs]."""
    (inputs, labels, test_inputs, test_labels), batch = DATA[data]()

    def logits(params, x):
        return layers.dense(params["out"], jax.nn.relu(layers.dense(params["hidden"], x)))

    def loss(params, rows):
        return layers.cross_entropy(logits(params, inputs[rows]), labels[rows])

    @jax.jit
    def run(key, gain):
        keys = jax.random.split(key, 3)
        params = {
            "hidden": layers.dense_init(keys[0], inputs.shape[1], 128),
            "out": layers.dense_init(keys[1], 128, 10),
        }
        params = jax.tree.map(lambda p: jnp.sqrt(gain) * p, params)
        rows = jnp.broadcast_to(jnp.arange(batch), (steps, batch))
        if batch < len(inputs):
            rows = jax.random.randint(keys[2], rows.shape, 0, len(inputs))

        def step(carry, rows):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, rows)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), (value, step_size(state))

        (params, state), read = jax.lax.scan(step, (params, optimizer.init(params)), rows)
        right = jnp.argmax(logits(read_out(state, params), test_inputs), 1) == test_labels
        return *read, right.mean()

    each = [run(jax.random.key(seed), gain) for gain in GAINS for seed in range(seeds)]
    return [np.asarray(values) for values in zip(*each, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memorized", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=6, help="of each initialisation")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    options = parser.parse_args()
    table = Table("", "loss above 1 again", "worst accuracy", "largest step size", box=None)
    for name in track(options.optimizers):
        losses, sizes, accuracies = runs(
            OPTIMIZERS[name](), options.steps, options.seeds, options.data
        )
        again = int(np.sum(losses[:, 150:].max(1) > 1.0))
        largest = sizes[:, 300:].max()
        table.add_row(
            name,
            f"{again} of {len(losses)}",
            f"{accuracies.min():.3f}",
            f"{largest:.2g}" if largest else "–",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
