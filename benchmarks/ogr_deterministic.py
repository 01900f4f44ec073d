"""OGR against quasi-Newton methods and tuned Adam, by the number of gradients.

``python -m benchmarks.ogr_deterministic`` solves the problems of ``benchmarks.ogr_problems``
with every solver, stores the best loss found after each evaluation of a gradient (those of
line searches counted) in ``benchmarks/results/ogr_deterministic.json``, and draws the
performance profile. ``--suite`` limits it; results of the other suites are kept.
"""

import argparse
import json
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from benchmarks.ogr_problems import SUITES, Batch
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TOLERANCES = (1e-1, 1e-3, 1e-5)
# Evaluations at which the stored curves are read.
GRID = np.unique(np.geomspace(1, 2000, 250).astype(int))


def optax_solver(make):
    """Losses before each step of an optax optimizer, one gradient a step."""

    def solve(loss, start, budget):
        optimizer = make()

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        _, values = jax.lax.scan(step, (start, optimizer.init(start)), None, budget)
        return values, jnp.arange(1, budget + 1)

    return solve


def optax_lbfgs(loss, start, budget):
    """Losses at the iterates of ``optax.lbfgs()``, and the evaluations up to each."""
    optimizer, cached = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry, _):
        params, state, count = carry
        value, grads = cached(params, state=state)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        searched = state[-1].info.num_linesearch_steps.astype(jnp.int32)
        return (optax.apply_updates(params, updates), state, count + searched), (value, count)

    carry = (start, optimizer.init(start), jnp.int32(1))
    return jax.lax.scan(step, carry, None, budget)[1]


def optimistix_solver(make):
    """One evaluation a step, accepted or not, which favours the solver."""

    def solve(loss, start, budget):
        solver = make()

        def function(y, _):
            return loss(y), None

        structure = jax.eval_shape(function, start, None)
        first = solver.init(function, start, None, {}, *structure, frozenset())
        # Beside arrays the state holds functions, which scan cannot carry.
        arrays, rest = eqx.partition(first, eqx.is_array)

        def step(carry, _):
            y, arrays = carry
            state = eqx.combine(arrays, rest)
            y, state, _ = solver.step(function, y, None, {}, state, frozenset())
            return (y, eqx.filter(state, eqx.is_array)), loss(y)

        _, values = jax.lax.scan(step, (start, arrays), None, budget)
        return values, jnp.arange(1, budget + 1)

    return solve


SOLVERS = {
    "ogr()": optax_solver(po.ogr),
    "optax.lbfgs()": optax_lbfgs,
    "optimistix.LBFGS": optimistix_solver(lambda: optimistix.LBFGS(1e-12, 1e-12)),
    "optimistix.BFGS": optimistix_solver(lambda: optimistix.BFGS(1e-12, 1e-12)),
    **{f"Adam {rate:g}": optax_solver(lambda r=rate: optax.adam(r)) for rate in RATES},
}


def solve(batch: Batch, solver) -> tuple[np.ndarray, float]:
    """Best losses after each number of evaluations in GRID, [problems, GRID]; seconds."""

    def run(start, argument):
        return solver(lambda x: batch.loss(x, argument), start, batch.budget)

    compiled = jax.jit(jax.vmap(run)).lower(batch.starts, batch.arguments).compile()
    begin = time.perf_counter()
    values, counts = map(np.asarray, compiled(batch.starts, batch.arguments))
    seconds = time.perf_counter() - begin
    values = np.where(np.isfinite(values), values, np.inf)
    best = np.minimum.accumulate(values, axis=1)
    return np.stack(
        [
            row[np.searchsorted(count, GRID[batch.budget >= GRID], side="right") - 1]
            for row, count in zip(best, counts, strict=True)
        ]
    ), seconds


def evaluations(curve, first, lowest, tolerance) -> float:
    """Evaluations until the loss is within a fraction of the way to the best known."""
    reached = np.asarray(curve) <= lowest + tolerance * (first - lowest)
    return float(GRID[np.argmax(reached)]) if reached.any() else np.inf


def tuned(runs: dict[str, list[float]]) -> dict[str, list[float]]:
    """The runs of one problem, with Adam at the rate that ends lowest."""
    adam = {name: curve for name, curve in runs.items() if name.startswith("Adam")}
    rest = {name: curve for name, curve in runs.items() if name not in adam}
    return rest | ({"Adam, best rate": min(adam.values(), key=lambda c: c[-1])} if adam else {})


def counts_table(record: dict, tolerance: float) -> dict[str, dict[str, float]]:
    """Evaluations per problem and solver; problems that nobody improves are left out."""
    table = {}
    for problem, runs in record["curves"].items():
        runs = tuned({name: np.array(curve, float) for name, curve in runs.items()})
        first = next(iter(runs.values()))[0]
        lowest = min(np.nanmin(curve) for curve in runs.values())
        if lowest < first:
            table[problem] = {
                name: evaluations(curve, first, lowest, tolerance) for name, curve in runs.items()
            }
    return table


def summary(record: dict) -> str:
    """Solved problems and comparison with ``optax.lbfgs()``, per tolerance, as Markdown."""
    lines = []
    for tolerance in TOLERANCES:
        counts = counts_table(record, tolerance)
        names = list(dict.fromkeys(name for row in counts.values() for name in row))
        both = [row for row in counts.values() if "optax.lbfgs()" in row and "ogr()" in row]
        decided = [r for r in both if np.isfinite(min(r["ogr()"], r["optax.lbfgs()"]))]
        ahead = sum(r["ogr()"] <= r["optax.lbfgs()"] for r in decided)
        # A solver is judged on the problems it was run on.
        runs = {name: [row[name] for row in counts.values() if name in row] for name in names}
        solved = ", ".join(f"{n} {np.isfinite(c).sum()} of {len(c)}" for n, c in runs.items())
        lines.append(f"| {tolerance:.0e} | {len(counts)} | {ahead} of {len(decided)} | {solved} |")
    head = "| tolerance | problems | ogr() level or ahead of optax.lbfgs() | solved |"
    return "\n".join([head, "|---|---|---|---|", *lines])


def draw(record: dict) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, tolerance in zip(figure.subplots(1, 3, sharey=True), TOLERANCES, strict=True):
        counts = counts_table(record, tolerance)
        names = list(dict.fromkeys(name for row in counts.values() for name in row))
        ratios = np.geomspace(1, 64, 200)
        for name in names:
            relative = [r[name] / min(r.values()) for r in counts.values() if name in r]
            axes.step(
                ratios,
                [np.mean(np.array(relative) <= r) for r in ratios],
                label=f"{name}, {len(relative)} problems",
            )
        axes.set(xscale="log", xlabel="gradients, relative to the best solver", ylim=(0, 1))
        axes.set_title(f"within {tolerance:g} of the best", fontsize=10)
    figure.axes[0].set_ylabel("fraction of problems")
    lines, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=8, loc="outside lower center", ncols=len(names))
    figure.savefig(RESULTS / "ogr_deterministic.png", dpi=110)


def print_tables(record: dict, console: Console) -> None:
    table = Table("loss at", "500", "1,000", "2,000", box=None)
    for label, runs in record["curves"].items():
        for name, curve in tuned(runs).items():
            if len(curve) == len(GRID):
                at = [
                    f"{curve[np.searchsorted(GRID, n, 'right') - 1]:.1e}" for n in (500, 1000, 2000)
                ]
                table.add_row(f"{label}, {name}", *at)
    console.print(table)
    print(summary(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--solver", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--table", action="store_true", help="print what is stored, solve nothing")
    options = parser.parse_args()
    path, console = RESULTS / "ogr_deterministic.json", Console(width=120)
    record = json.loads(path.read_text("utf-8")) if path.exists() else {"curves": {}, "seconds": {}}
    if options.table:
        print_tables(record, console)
        return
    record["environment"], record["grid"] = environment(), GRID.tolist()
    for suite in options.suite:
        build, wide = SUITES[suite]
        with jax.enable_x64(wide):
            for batch in build():
                for name in options.solver:
                    curves, seconds = solve(batch, SOLVERS[name])
                    for label, curve in zip(batch.labels, curves, strict=True):
                        digits = [float(f"{value:.5g}") for value in curve]
                        record["curves"].setdefault(label, {})[name] = digits
                        record["seconds"].setdefault(label, {})[name] = round(seconds, 2)
                    console.print(f"{suite} {batch.labels[0]} {name}: {seconds:.1f} s")
                path.write_text(json.dumps(record) + "\n", "utf-8")
    print_tables(record, console)
    draw(record)


if __name__ == "__main__":
    main()
