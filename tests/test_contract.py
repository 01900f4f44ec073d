"""Every row of the contract holds for every optimizer of the package."""

import json

import pytest

from tests.contract import compiled_update
from tests.contract.__main__ import RECORD
from tests.contract.row import NotApplicableError, check
from tests.contract.subjects import OURS
from tests.contract.table import BROKEN, ROWS

# Nearly all of the time is compiling. So the quick tests take a row of these groups with the
# optimizer to take first and every sixth row with one of its siblings in turn as well; the slow
# tests take the others.
LONG = (
    "distribution",
    "faults",
    "frameworks",
    "persistence",
    "properties",
    "transformations",
    "wrappers",
)
FIRST, SIBLINGS = "parabolic_adamw", ("parabolic_muon", "parabolic_sgd", "parabolic_adam")


def rows_and_names():
    for number, row in enumerate(ROWS):
        turn = number // 6 % len(SIBLINGS)
        quick = (FIRST, SIBLINGS[turn]) if number % 6 == 0 else (FIRST,)
        for name in OURS:
            slow = row.slow or (row.group in LONG and name not in quick)
            marks = [pytest.mark.slow] * slow
            yield pytest.param(row, name, id=f"{row.group}-{row.name}-{name}", marks=marks)


@pytest.mark.parametrize(("row", "name"), list(rows_and_names()))
def test_row(row, name):
    try:
        check(row, OURS[name])
    except NotApplicableError as reason:
        pytest.skip(str(reason))


def test_every_row_says_what_it_promises():
    assert all(row.promise for row in ROWS)
    names = [(row.group, row.name) for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(not RECORD.exists(), reason="not stored yet: python -m tests.contract --out")
def test_stored_record_is_of_these_rows_and_holds_no_failure_of_ours():
    record = json.loads(RECORD.read_text("utf-8"))
    stored = {(row["group"], row["name"]) for row in record["rows"]}
    assert stored == {(row.group, row.name) for row in ROWS if not row.slow}
    for row in record["rows"]:
        verdicts = {row["outcomes"][name]["verdict"] for name in OURS}
        assert BROKEN not in verdicts, (row["group"], row["name"])


@pytest.mark.parametrize(
    ("kind", "numbers", "rounds", "rows", "message"),
    [
        ("all-gather", 4096, 1, 1, "all-gather"),
        ("all-reduce", 36, 3, 1, "3 all-reduces"),
        ("all-reduce", 90, 12, 10, "12 all-reduces"),
        ("all-reduce", 4096, 9, 10, "4096 numbers"),
        ("all-reduce", 36, 2, 1, None),
        ("all-reduce", 90, 11, 10, None),
    ],
)
def test_the_row_on_8_billion_parameters_can_fail(kind, numbers, rounds, rows, message):
    each = {"kind": kind, "numbers": numbers, "of_optax": False}
    output = json.dumps({"collectives": [each] * rounds, "rows": rows})
    if message is None:
        compiled_update.check(OURS["ogr"], output)
    else:
        with pytest.raises(AssertionError, match=message):
            compiled_update.check(OURS["ogr"], output)
