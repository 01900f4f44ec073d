"""Gradient noise: phantom curvature of every estimator, and training on noisy quadratics.

``python -m benchmarks.ogr_noise`` follows gradient descent at a fixed rate in one dimension,
where the exact curvature is known, and reads every estimator along the way; then it trains in
twenty dimensions with the methods of the family over a grid of learning rates. It prints two
tables and stores them in ``benchmarks/results/ogr_noise.json``.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"

CURVATURES = (0.0, 0.1, 1.0, 3.0)
RATES = (0.01, 0.1)
SAMPLES, SEEDS = 5000, 16


def span_chain(estimator: Any, decay: float) -> Any:
    return optax.chain(po.track_fixed(jnp.eye(1), decay=decay), estimator)


# Name: the links to read, given the curvature; one record with the reading comes out.
ESTIMATORS: dict[str, Callable[[float], Any]] = {
    "centred, 0.9": lambda _: span_chain(po.estimate_centred(), 0.9),
    "centred, 0.99": lambda _: span_chain(po.estimate_centred(), 0.99),
    "centred, all": lambda _: span_chain(po.estimate_centred(), 1.0),
    "secants": lambda _: optax.chain(po.track_secants(1), po.estimate_secants(1)),
    "uncentred": lambda _: optax.chain(
        po.track_displacement(optax.identity(), tail_power=None), po.estimate_uncentred()
    ),
    "instrument, all": lambda _: span_chain(po.estimate_instrument(), 1.0),
    "exact": lambda curvature: span_chain(po.estimate_exact(lambda p: curvature * (p - 2.0)), 1.0),
}


def readings(name: str) -> np.ndarray:
    """The last readings, [rates, curvatures, seeds], of runs with noise of unit variance."""

    def run(rate, curvature, key):
        chain = ESTIMATORS[name](curvature)

        def step(carry, key):
            p, state = carry
            gradient = curvature * (p - 2.0) + jax.random.normal(key, (1,))
            record, state = chain.update(gradient, state, p)
            read = record.curvature if isinstance(record, po.Parabola) else record.eigenvalues
            return (p - rate * gradient, state), read[0]

        p = jnp.array([2.5])
        keys = jax.random.split(jax.random.wrap_key_data(key), SAMPLES)
        return jax.lax.scan(step, (p, chain.init(p)), keys)[1][-1]

    grid = jnp.array(RATES)[:, None, None], jnp.array(CURVATURES)[:, None]
    return np.asarray(
        jax.jit(jnp.vectorize(run, signature="(),(),(n)->()"))(
            *grid, jax.random.key_data(jax.random.split(jax.random.key(0), SEEDS))
        )
    )


def phantom() -> list[dict[str, Any]]:
    rows = [{"rate": rate, "curvature": c} for rate in RATES for c in CURVATURES]
    for name in ESTIMATORS:
        quartiles = np.quantile(readings(name), (0.25, 0.5, 0.75), axis=-1).reshape(3, -1)
        for row, values in zip(rows, quartiles.T, strict=True):
            row[name] = [round(float(x), 4) for x in values]
    return rows


DIMENSIONS, STEPS = 20, 2000
GRID = tuple(float(x) for x in np.geomspace(1e-3, 10.0, 17))
NOISES = (0.0, 0.1)
SCALES = (0.5, 0.9, 0.97, 0.99)


def instrument(rate: float) -> Any:
    """Averaged updates at four time scales, read by the instrument form."""
    return optax.chain(
        po.track_averages(SCALES, of_updates=True, decay=0.99),
        po.estimate_instrument(len(SCALES)),
        po.flip_spectrum(1.0),
        po.step_newton(rate),
    )


# Name: the optimizer at a learning rate.
TUNED: dict[str, Callable[[float], Any]] = {
    "sgd": optax.sgd,
    "sgd, momentum": lambda rate: optax.sgd(0.1 * rate, 0.9),
    "ogr_momentum": po.ogr_momentum,
    "ogr_published(4)": lambda rate: po.ogr_published(4, rate),
    "ogr_diagonal": po.ogr_diagonal,
    "ogr_diagonal, sigma": lambda rate: po.ogr_diagonal(rate, perfect_correlation=True),
    "instrument": instrument,
}
UNTUNED: dict[str, Callable[[], Any]] = {
    "ogr(4)": lambda: po.ogr(4),
    "parabolic_sgd()": po.parabolic_sgd,
    "parabolic_adam()": po.parabolic_adam,
}


def excess(make: Callable[[Any], Any], rates: tuple[float, ...]) -> np.ndarray:
    """Loss above the minimum, [noises, rates]: mean over the last tenth of a run and the seeds.

    The quadratic has curvatures from 0.01 to 1 and is rotated; its start has a loss of 1.
    """
    rng = np.random.default_rng(0)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0], jnp.float32)
    curvatures = jnp.asarray(np.geomspace(0.01, 1.0, DIMENSIONS), jnp.float32)
    hessian = turn.T @ (curvatures[:, None] * turn)
    centre, away = jnp.asarray(rng.normal(size=(2, DIMENSIONS)), jnp.float32)

    def loss(p):
        return 0.5 * (p - centre) @ hessian @ (p - centre)

    start = centre + away / jnp.sqrt(loss(centre + away))

    def run(noise, rate, seed):
        optimizer = make(rate)

        def step(carry, key):
            p, state = carry
            gradient = jax.grad(loss)(p) + noise * jax.random.normal(key, p.shape)
            updates, state = optimizer.update(gradient, state, p)
            return (p + updates, state), loss(p)

        keys = jax.random.split(jax.random.key(seed), STEPS)
        return jnp.mean(jax.lax.scan(step, (start, optimizer.init(start)), keys)[1][-STEPS // 10 :])

    grid = jnp.array(NOISES)[:, None, None], jnp.array(rates)[:, None], jnp.arange(4)
    values = np.mean(jax.jit(jnp.vectorize(run))(*grid), axis=-1)
    return np.where(np.isfinite(values), values, np.inf)


def width(losses: list[float]) -> float:
    """Factor between the largest and the smallest rate that end within twice the best."""
    good = [rate for rate, loss in zip(GRID, losses, strict=True) if loss <= 2.0 * min(losses)]
    return max(good) / min(good)


def quadratics() -> list[dict[str, Any]]:
    rows = []
    for name, make in TUNED.items():
        for noise, losses in zip(NOISES, excess(make, GRID), strict=True):
            rows.append({"noise": noise, "name": name, "losses": losses.tolist()})
    for name, make in UNTUNED.items():
        for noise, losses in zip(NOISES, excess(lambda _, m=make: m(), (1.0,)), strict=True):
            rows.append({"noise": noise, "name": name, "losses": losses.tolist()})
    return sorted(rows, key=lambda row: row["noise"])


def main() -> None:
    console = Console(width=180)
    record = {"environment": environment(), "phantom": phantom(), "quadratics": quadratics()}
    (RESULTS / "ogr_noise.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    table = Table("rate", "curvature", *ESTIMATORS, box=None, title="readings, median (quartiles)")
    for row in record["phantom"]:
        cells = [f"{m:.2f} ({low:.2f}, {high:.2f})" for low, m, high in map(row.get, ESTIMATORS)]
        table.add_row(f"{row['rate']:g}", f"{row['curvature']:g}", *cells)
    console.print(table)
    table = Table("noise", "method", "excess loss, best rate", "rate", "range", box=None)
    for row in record["quadratics"]:
        best = int(np.argmin(row["losses"]))
        tuned = row["name"] in TUNED
        table.add_row(
            f"{row['noise']:g}",
            row["name"],
            f"{row['losses'][best]:.2e}",
            f"{GRID[best]:.3g}" if tuned else "none",
            # Without noise the best loss is rounding, and so is what lies near it.
            f"{width(row['losses']):.0f}" if tuned and row["noise"] else "",
        )
    console.print(table)


if __name__ == "__main__":
    main()
