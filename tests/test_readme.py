"""The READMEs: Python blocks run, tables are as measured, commands and links name what there is."""

import importlib.util
import pathlib
import re

import pytest

from benchmarks import report
from tests.contract import __main__ as contract
from tests.contract import features

ROOT = pathlib.Path(__file__).parent.parent
TEXTS = {
    path.parent.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    # Hidden folders hold environments and caches.
    for path in sorted([*ROOT.glob("README.md"), *ROOT.glob("[!.]*/**/README.md")])
    if "site-packages" not in path.parts
}
BLOCKS = [
    (folder, text[: match.start()].count("\n") + 2, match.group(1))
    for folder, text in TEXTS.items()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]

pytestmark = pytest.mark.skipif("." not in TEXTS, reason="no README.md beside the tests")


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(folder):
    """Pairs of a path and an anchor, either of which may be empty."""
    return set(re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(TEXTS[folder])))


def anchors(path):
    """What links to the headings of a file end with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_has_examples():
    assert "." in [folder for folder, _, _ in BLOCKS]


@pytest.mark.parametrize(
    ("folder", "line", "code"), BLOCKS, ids=[f"{folder}-line-{line}" for folder, line, _ in BLOCKS]
)
def test_block(folder, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Blank lines in front make tracebacks point into the README.
    path = str(ROOT / folder / "README.md")
    exec(compile("\n" * (line - 1) + code, path, "exec"), {"__name__": "readme"})


def test_results_are_those_of_the_stored_records():
    suites = {suite: report.load(suite) for suite in report.HEADLINE_SUITES}
    assert report.headline(suites, short=True) in TEXTS["."]
    assert report.headline(suites) in TEXTS["benchmarks"]
    assert report.parts(suites) in TEXTS["benchmarks"]


@pytest.mark.slow
def test_features_beside_other_optimizers_are_as_measured():
    assert features.table() in TEXTS["parabolic_optax"]


def test_contract_is_that_of_the_stored_record():
    assert contract.stored_table() in TEXTS["tests/contract"]


@pytest.mark.parametrize("folder", TEXTS)
def test_commands_that_a_readme_names_exist(folder):
    commands = set(re.findall(r"python -m (\w+(?:\.\w+)*)", TEXTS[folder]))
    assert [name for name in commands if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("folder", TEXTS)
def test_links_of_a_readme_lead_to_files_and_headings(folder):
    found = [(ROOT / folder / (name or "README.md"), anchor) for name, anchor in links(folder)]
    assert [path for path, _ in found if not path.exists()] == []
    assert [(p, anchor) for p, anchor in found if anchor and anchor not in anchors(p)] == []


@pytest.mark.parametrize(
    ("folder", "pattern"), [("parabolic_optax", "*.py"), ("notebooks", "*.ipynb")]
)
def test_all_files_of_a_folder_are_in_its_readme(folder, pattern):
    files = {path.name for path in (ROOT / folder).glob(pattern)}
    assert files - {name for name, _ in links(folder)} == set()
