"""What the problems are, in numbers: ``python -m benchmarks.workloads [SUITE ...]``."""

import argparse
import sys
from collections.abc import Sequence

import jax

from benchmarks import workloads
from benchmarks.data import MissingDataError
from benchmarks.workloads import SUITES, Workload


def row(workload: Workload) -> str:
    """One line of the table."""
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    rows, held_out = (len(jax.tree.leaves(part)[0]) for part in (workload.train, workload.held_out))
    epochs = workload.batch * workload.steps / rows
    numbers = (f"{n:,}" for n in (rows, held_out, parameters, workload.batch, workload.steps))
    return "| " + " | ".join((workload.name, *numbers, f"{epochs:.3g}")) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 where data were missing, of which it prints the reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workloads", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    chosen = parser.parse_args(arguments).suites or SUITES
    if unknown := set(chosen) - set(SUITES):
        parser.error(f"unknown suite {min(unknown)!r}; known are {', '.join(SUITES)}")
    print("| problem | rows | held out | parameters | batch | steps | epochs |")
    print("|---|---|---|---|---|---|---|")
    missing = []
    for name in dict.fromkeys(name for suite in chosen for name in SUITES[suite]):
        try:
            print(row(workloads.load(name)), flush=True)
        except (MissingDataError, ModuleNotFoundError) as error:
            missing.append(f"{name}: {error}")
    print(*missing, sep="\n", file=sys.stderr, end="\n" if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
