"""Fails where new records are worse than the stored ones: ``python -m benchmarks.alarm FOLDER``.

FOLDER holds what ``python -m benchmarks.run --suite smoke --results FOLDER`` left. Compared are
the ratios of our losses to those of the reference, tuned in the same run, so that another
machine or library shifts both. After a change that is meant, the stored records are renewed by
``python -m benchmarks.run --suite smoke``.
"""

import argparse
import pathlib
from collections.abc import Sequence

from benchmarks import records, report
from benchmarks.scores import Scores

# Other machines round differently, which moves single runs by some per cent.
TOLERANCE = 1.1


def compare(new: Scores, stored: Scores) -> list[tuple[str, str, float, float]]:
    """Workload, entry, new and stored ratio, of all that was stored; NaN where it is missing."""
    return [
        (workload, entry.label, new.ratio(workload, entry), stored.ratio(workload, entry))
        for workload in stored.workloads
        for entry in stored.ours
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints every comparison; returns 1 if a ratio grew by more than the tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alarm", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("folder", type=pathlib.Path, help="new records of the suite smoke")
    parser.add_argument("--stored", type=pathlib.Path, default=records.RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    rows = compare(report.load("smoke", options.folder), report.load("smoke", options.stored))
    worse = 0
    for workload, label, ratio, before in rows:
        # A comparison with NaN is false: what is missing is an alarm too.
        bad = not ratio <= TOLERANCE * before
        worse += bad
        mark = "  WORSE" if bad else ""
        print(f"{workload:20} {label:20} ratio {ratio:.3f}, stored {before:.3f}{mark}")
    return int(worse > 0 or not rows)


if __name__ == "__main__":
    raise SystemExit(main())
