"""All rows of the contract, in order, and the table of who keeps them."""

import dataclasses
from collections.abc import Iterable

from tests.contract import (
    distribution,
    faults,
    frameworks,
    inputs,
    persistence,
    properties,
    transformations,
    wrappers,
)
from tests.contract.row import Make, NotApplicableError, Row, check

GROUPS = (
    wrappers,
    transformations,
    frameworks,
    persistence,
    distribution,
    faults,
    properties,
    inputs,
)
ROWS: list[Row] = [row for group in GROUPS for row in group.ROWS]

KEPT, BROKEN, EXEMPT = "yes", "no", "-"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether a promise is kept, and why not."""

    verdict: str
    reason: str = ""


def outcome(row: Row, make: Make) -> Outcome:
    try:
        check(row, make)
    except NotApplicableError as error:
        return Outcome(EXEMPT, str(error))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome(BROKEN, f"{type(error).__name__}: {' '.join(lines)[:200]}")
    return Outcome(KEPT)


def summary(record: dict, names: Iterable[str]) -> str:
    """Rows kept, of those that apply, for every group and optimizer, as Markdown."""
    names = list(names)
    columns = [f"`{name}`" for name in names]
    groups = list(dict.fromkeys(row["group"] for row in record["rows"]))
    lines = [
        "| rows kept, of those that apply | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(names),
    ]
    for group in [*groups, None]:
        counts = []
        for name in names:
            verdicts = [
                row["outcomes"][name]["verdict"]
                for row in record["rows"]
                if group in (row["group"], None)
            ]
            kept = verdicts.count(KEPT)
            counts.append(f"{kept}/{kept + verdicts.count(BROKEN)}")
        lines.append(f"| {group or 'all'} | " + " | ".join(counts) + " |")
    return "\n".join(lines)
