"""Every Python block of the README runs as it stands."""

import importlib.util
import pathlib
import re

import pytest

from benchmarks import report
from tests.contract import __main__ as contract
from tests.contract import features

README = pathlib.Path(__file__).parent.parent / "README.md"
TEXT = README.read_text("utf-8") if README.exists() else ""
BLOCKS = [
    (TEXT[: match.start()].count("\n") + 2, match.group(1))
    for match in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
]


@pytest.mark.skipif(not README.exists(), reason="no README.md beside the tests")
def test_readme_has_examples():
    assert BLOCKS


@pytest.mark.parametrize(("line", "code"), BLOCKS, ids=[f"line-{line}" for line, _ in BLOCKS])
def test_block(line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Blank lines in front make tracebacks point into the README.
    exec(compile("\n" * (line - 1) + code, str(README), "exec"), {"__name__": "readme"})


@pytest.mark.skipif(not README.exists(), reason="no README.md beside the tests")
def test_results_are_those_of_the_stored_records():
    suites = {suite: report.load(suite) for suite in report.HEADLINE_SUITES}
    assert report.headline(suites) in TEXT
    assert report.parts(suites) in (README.parent / "benchmarks" / "README.md").read_text("utf-8")


@pytest.mark.skipif(not README.exists(), reason="no README.md beside the tests")
def test_features_beside_other_optimizers_are_as_measured():
    assert features.table() in TEXT


def test_contract_is_that_of_the_stored_record():
    text = (pathlib.Path(__file__).parent / "contract" / "README.md").read_text("utf-8")
    assert contract.stored_table() in text


@pytest.mark.skipif(not README.exists(), reason="no README.md beside the tests")
@pytest.mark.parametrize("folder", [".", "benchmarks", "tests/contract"])
def test_commands_and_files_that_a_readme_names_exist(folder):
    path = README.parent / folder / "README.md"
    text = path.read_text("utf-8")
    commands = set(re.findall(r"python -m ([\w.]+)", text))
    assert commands
    assert [name for name in commands if importlib.util.find_spec(name) is None] == []
    files = set(re.findall(r"\]\(([^)#:]+)[^):]*\)", text))
    assert [name for name in files if not (path.parent / name).exists()] == []
