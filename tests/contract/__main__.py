"""``python -m tests.contract``: the table of the contract, ours and the peers beside them."""

import argparse
import dataclasses
import json
import pathlib
import platform

import flax
import jax
import numpy
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

import parabolic_optax as po
from tests.contract.row import Make, Row
from tests.contract.subjects import OURS, PEERS, SUBJECTS
from tests.contract.table import BROKEN, EXEMPT, KEPT, ROWS, outcome, summary

RECORD = pathlib.Path(__file__).parents[2] / "benchmarks/results/contract.json"
MARKS = {KEPT: "[green]yes[/]", BROKEN: "[red]no[/]", EXEMPT: "-"}


def checked(row: Row, make: Make) -> dict[str, str]:
    found = dataclasses.asdict(outcome(row, make))
    # Thousands of compiled programs do not fit into one process.
    jax.clear_caches()
    return found


def stored_table() -> str:
    """Rows kept in the stored record: the table of the README."""
    return summary(json.loads(RECORD.read_text("utf-8")), [*OURS, *PEERS])


def main() -> int:
    """Checks, prints and stores; the exit code says whether ours keep every promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=main.__doc__)
    parser.add_argument("--optimizers", nargs="+", choices=SUBJECTS, default=[*OURS, *PEERS])
    parser.add_argument("--groups", nargs="+", choices={row.group for row in ROWS})
    parser.add_argument("--slow", action="store_true", help="check the slow rows as well")
    parser.add_argument("--out", type=pathlib.Path, help="store the outcomes, as JSON")
    parser.add_argument(
        "--table", action="store_true", help="check nothing; print the table of the README"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(stored_table())
        return 0

    rows = [
        row
        for row in ROWS
        if (arguments.slow or not row.slow) and row.group in (arguments.groups or [row.group])
    ]
    console = Console()
    record = {
        "versions": {m.__name__: m.__version__ for m in (po, jax, optax, flax, numpy)},
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "rows": [
            {
                "group": row.group,
                "name": row.name,
                "promise": row.promise,
                "outcomes": {name: checked(row, SUBJECTS[name]) for name in arguments.optimizers},
            }
            for row in track(rows, "rows", console=console)
        ],
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    table = Table("group", "promise", *arguments.optimizers)
    for row in record["rows"]:
        verdicts = [MARKS[row["outcomes"][name]["verdict"]] for name in arguments.optimizers]
        table.add_row(row["group"], row["promise"], *verdicts)
    console.print(table)
    for row in record["rows"]:
        for name, result in row["outcomes"].items():
            if result["reason"]:
                console.print(
                    f"{result['verdict']}  {row['group']} {row['name']}, {name}: "
                    f"{result['reason']}",
                    markup=False,
                    soft_wrap=True,
                )
    print(summary(record, arguments.optimizers))
    return any(
        row["outcomes"][name]["verdict"] == BROKEN
        for row in record["rows"]
        for name in OURS
        if name in row["outcomes"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
