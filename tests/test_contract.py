"""Every row of the contract holds for every optimizer of the package."""

import json

import pytest

from tests.contract.__main__ import RECORD
from tests.contract.row import NotApplicableError, check
from tests.contract.subjects import OURS
from tests.contract.table import BROKEN, ROWS

# Promises that are not kept yet; a strict failure tells when one is.
MISSED = {
    ("netket", name): "from parameters near 0 the steps grow too slowly for 400 steps"
    for name in ("parabolic_adam", "parabolic_adamw", "parabolic_muon")
} | {
    ("eight_billion", "ogr"): "directions are made orthogonal one after the other, with an"
    " all-reduce for every pass"
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row.group}-{row.name}", marks=[pytest.mark.slow] * row.slow)
        for row in ROWS
    ],
)
def test_row(row, name, request):
    if (row.name, name) in MISSED:
        request.applymarker(pytest.mark.xfail(reason=MISSED[row.name, name]))
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
