"""Public docstrings are complete, and agree with the signatures."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import parabolic_optax as po

FUNCTIONS = [name for name in po.__all__ if inspect.isfunction(getattr(po, name))]
RECORDS = [name for name in po.__all__ if inspect.isclass(getattr(po, name))]
SECTIONS = ["Args", "Returns", "Raises", "Source", "Example"]


def sections(name):
    lines = inspect.getdoc(getattr(po, name)).splitlines()
    return [line[:-1] for line in lines if line[:-1] in SECTIONS and line.endswith(":")]


def test_every_public_name_is_a_function_or_a_record():
    assert {*FUNCTIONS, *RECORDS} == set(po.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_all_there_is_to_say_in_one_order(name):
    function = getattr(po, name)
    # What takes no arguments can be given no wrong ones.
    needless = () if inspect.signature(function).parameters else ("Args", "Raises")
    assert sections(name) == [section for section in SECTIONS if section not in needless]
    assert ">>> print" in inspect.getdoc(getattr(po, name)).split("Example:")[1]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_describes_its_fields(name):
    record = getattr(po, name)
    described = inspect.getdoc(record).split("Attributes:\n")[1]
    assert [line.split(":")[0].strip() for line in described.splitlines() if line[2:3] != " "] == [
        *record._fields
    ]


@pytest.mark.parametrize("name", po.__all__)
def test_the_tour_of_the_package_leads_past_every_name(name):
    kind = "class" if name in RECORDS else "func"
    assert f":{kind}:`{name}`" in po.__doc__


def test_arguments_and_returns_are_those_of_the_signatures():
    pytest.importorskip("pydoclint")
    package = pathlib.Path(po.__file__).parent
    command = [sys.executable, "-m", "pydoclint.main", "--quiet", package]
    run = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
