"""Whether ``ogr(rank=4)`` does harm in minibatch training, against ``parabolic_adam()``.

``python -m benchmarks.ogr_minibatch`` trains the demo's models with the seeds of
``benchmarks.digits_mnist``, prints the held-out losses at the averaged parameters and
stores them in ``benchmarks/results/ogr_minibatch.json``.
"""

import argparse
import json
import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table

import parabolic_optax as po
from benchmarks.digits_mnist import final_losses
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"
CONTENDERS = {
    "ogr(rank=4)": lambda _, steps: po.ogr(rank=4),
    "parabolic_adam()": lambda _, steps: po.parabolic_adam(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    record = {"environment": environment(), "seeds": options.seeds, "held_out": {}}
    table = Table("data", *CONTENDERS, "ratio of medians", box=None)
    for name in options.data:
        losses = {
            label: final_losses(name, make, (1.0,), options.seeds)[1, 0]
            for label, make in CONTENDERS.items()
        }
        medians = [float(np.median(values)) for values in losses.values()]
        record["held_out"][name] = {label: values.tolist() for label, values in losses.items()}
        table.add_row(name, *(f"{m:.4f}" for m in medians), f"{medians[0] / medians[1]:.3f}")
    Console().print(table)
    (RESULTS / "ogr_minibatch.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
