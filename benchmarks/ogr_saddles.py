"""Gradients that an optimizer needs to leave a saddle: OGR, plain Newton, Adam, L-BFGS.

``python -m benchmarks.ogr_saddles`` starts every problem close to a saddle, counts the
gradients until the loss has fallen by half of the way from the saddle to the minimum (or by
a fixed amount where there is none), stores the counts in
``benchmarks/results/ogr_saddles.json`` and draws the paths in two dimensions.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from benchmarks.ogr_deterministic import optax_lbfgs
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
BUDGET = 1000


class Saddle(NamedTuple):
    """A loss, a start near its saddle, and the loss that counts as having left it."""

    loss: Callable[[jax.Array], jax.Array]
    start: jax.Array
    left: float


def planar(p):
    """Minima of -1/4 at y = 1 and -1."""
    return 0.5 * (p[0] ** 2 - p[1] ** 2) + 0.25 * p[1] ** 4


def monkey(p):
    """x^3 - 3 x y^2 with walls: three ways down, no negative curvature at the saddle."""
    return p[0] ** 3 - 3.0 * p[0] * p[1] ** 2 + 0.1 * jnp.sum(p**2) ** 2


def strict(dimensions: int = 50) -> Saddle:
    """A rotated saddle with curvatures from -0.1 to 10, a tenth of them negative."""
    rng = np.random.default_rng(0)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0], jnp.float32)
    negative = dimensions // 10
    curvatures = np.append(-np.geomspace(0.01, 0.1, negative), np.geomspace(0.01, 10, 45))
    curvatures = jnp.asarray(curvatures, jnp.float32)

    def loss(p):
        z = turn @ p
        return 0.5 * jnp.sum(curvatures * z**2) + 0.25 * jnp.sum(z[:negative] ** 4)

    start = np.append(np.full(negative, 1e-4), rng.normal(size=dimensions - negative))
    deepest = -float(jnp.sum(curvatures[:negative] ** 2)) / 4.0
    return Saddle(loss, turn.T @ jnp.asarray(start, jnp.float32), 0.5 * deepest)


def deep_linear() -> Saddle:
    """Three 5 x 5 layers near zero, where every product of layers vanishes."""
    rng = np.random.default_rng(1)
    target = jnp.asarray(rng.normal(size=(5, 5)), jnp.float32)

    def loss(p):
        a, b, c = p.reshape(3, 5, 5)
        return jnp.mean((a @ b @ c - target) ** 2)

    start = jnp.asarray(0.03 * rng.normal(size=75), jnp.float32)
    return Saddle(loss, start, 0.5 * float(loss(start)))


PROBLEMS = {
    "planar": Saddle(planar, jnp.array([1.0, 1e-4]), -0.125),
    "strict, 50-D": strict(),
    "monkey": Saddle(monkey, jnp.array([0.05, 0.02]), -1.0),
    "deep linear": deep_linear(),
}


def plain_newton(saddle: Saddle) -> optax.GradientTransformation:
    """Steps -H^+ g with the exact Hessian, to the nearest point of zero slope."""

    def update(updates, state, params=None):
        return -jnp.linalg.pinv(jax.hessian(saddle.loss)(params), hermitian=True) @ updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


OPTIMIZERS: dict[str, Callable[[Saddle], Any]] = {
    "ogr()": lambda _: po.ogr(),
    "ogr(base=None)": lambda _: po.ogr(base=None),
    "plain Newton": plain_newton,
    **{f"Adam {rate:g}": (lambda _, r=rate: optax.adam(r)) for rate in RATES},
}


def path_of(optimizer: Any, saddle: Saddle) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and losses before each step."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(saddle.loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (params, value)

    carry = (saddle.start, optimizer.init(saddle.start))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, BUDGET)[1])(carry)


def gradients_to_leave(values: np.ndarray, counts: np.ndarray, left: float) -> int | None:
    below = np.asarray(values) < left
    return int(counts[np.argmax(below)]) if below.any() else None


def draw(paths: dict[str, dict[str, np.ndarray]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (problem, runs) in zip(figure.subplots(1, 2), paths.items(), strict=True):
        x, y = np.meshgrid(np.linspace(-2, 2, 121), np.linspace(-2, 2, 121))
        heights = jax.vmap(PROBLEMS[problem].loss)(jnp.stack([x.ravel(), y.ravel()], axis=1))
        axes.contour(x, y, np.asarray(heights).reshape(x.shape), 30, cmap="Greys", linewidths=0.6)
        for name, points in runs.items():
            axes.plot(*points.T, marker=".", markersize=4, linewidth=1, label=name)
        axes.set(title=f"{problem}, first 60 gradients", xlim=(-2, 2), ylim=(-2, 2))
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "ogr_saddles.png", dpi=110)


def main() -> None:
    console, record = Console(width=140), {"environment": environment(), "gradients": {}}
    paths: dict[str, dict[str, np.ndarray]] = {"planar": {}, "monkey": {}}
    for problem, saddle in PROBLEMS.items():
        counts = record["gradients"].setdefault(problem, {})
        for name, make in OPTIMIZERS.items():
            points, values = path_of(make(saddle), saddle)
            counts[name] = gradients_to_leave(values, np.arange(1, BUDGET + 1), saddle.left)
            if problem in paths and name in ("ogr()", "plain Newton", "Adam 0.01"):
                paths[problem][name] = np.asarray(points)[:60]
        search = jax.jit(lambda start, s=saddle: optax_lbfgs(s.loss, start, BUDGET))
        counts["optax.lbfgs()"] = gradients_to_leave(*map(np.asarray, search(saddle.start)),
                                                     saddle.left)  # fmt: skip
    names = list(next(iter(record["gradients"].values())))
    table = Table("gradients to leave", *names, box=None)
    for problem, counts in record["gradients"].items():
        table.add_row(problem, *(str(counts[n] or f"> {BUDGET}") for n in names))
    console.print(table)
    (RESULTS / "ogr_saddles.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    draw(paths)


if __name__ == "__main__":
    main()
