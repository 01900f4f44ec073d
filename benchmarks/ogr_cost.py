"""Time per step and memory of ``ogr(rank, base=None)`` against size and rank.

``python -m benchmarks.ogr_cost`` times the compiled update alone, on gradients that are
given, and prints bytes of state and of temporaries as the compiler counts them; both go to
``benchmarks/results/ogr_cost.json``.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"


def measure(size: int, rank: int, repeats: int) -> dict[str, float]:
    """Median seconds of an update, and bytes per parameter of state and temporaries."""
    optimizer = po.ogr(rank, base=None)
    params = jnp.linspace(0.5, 1.5, size)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = optimizer.update(jnp.cos(params), state, params)
        return params + updates, state

    compiled = step.lower(params, state).compile()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    seconds = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        params, state = jax.block_until_ready(compiled(params, state))
        seconds.append(time.perf_counter() - begin)
    analysis = compiled.memory_analysis()
    return {
        "size": size,
        "rank": rank,
        "seconds": float(np.median(seconds[2:])),
        "state_bytes_per_parameter": stored / size,
        "temporary_bytes_per_parameter": analysis.temp_size_in_bytes / size if analysis else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--ranks", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = [measure(n, k, options.repeats) for n in options.sizes for k in options.ranks]
    table = Table("size", "rank", "ms", "ns / (size rank)", "state B", "temporary B", box=None)
    for row in rows:
        table.add_row(
            f"{row['size']:.0e}",
            str(row["rank"]),
            f"{1e3 * row['seconds']:.2f}",
            f"{1e9 * row['seconds'] / row['size'] / row['rank']:.2f}",
            f"{row['state_bytes_per_parameter']:.0f}",
            f"{row['temporary_bytes_per_parameter'] or float('nan'):.0f}",
        )
    Console().print(table)
    record = {"environment": environment(), "rows": rows}
    (RESULTS / "ogr_cost.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
