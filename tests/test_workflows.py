"""The files that GitHub reads obey published schemas, and their commands name what there is."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

pytest.importorskip("check_jsonschema")
from ruamel.yaml import YAML

ROOT = pathlib.Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = sorted(set(GITHUB.glob("ISSUE_TEMPLATE/*.yml")) - {GITHUB / "ISSUE_TEMPLATE/config.yml"})

pytestmark = pytest.mark.skipif(not GITHUB.exists(), reason="a source distribution")


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE/config.yml"]),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_published_schema(schema, paths):
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit(path):
    for action in re.findall(r"uses: (.*)", path.read_text("utf-8")):
        assert re.fullmatch(r"\./.*|[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise(path):
    assert "\npermissions:\n  contents: read\n" in path.read_text("utf-8")


def commands(path):
    """The shell commands of a workflow."""
    jobs = YAML(typ="safe").load(path)["jobs"].values()
    return [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_name_extras_modules_and_files_that_exist(path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = "\n".join(commands(path))
    asked = {e for group in re.findall(r"-e \"\.\[(.*?)\]\"", text) for e in group.split(",")}
    assert asked <= set(extras["optional-dependencies"])
    for module in re.findall(r"python -m (benchmarks[\w.]*|tests[\w.]*|notebooks)", text):
        assert importlib.util.find_spec(module), module
    for file in re.findall(r"(?:^|\s)((?:tests|\.ci|parabolic_optax)(?:/[\w.]+)*)", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize(
    "script", [ROOT / ".ci/run", ROOT / ".ci/oldest", *WORKFLOWS], ids=lambda path: path.stem
)
def test_shell_can_read_the_commands(script):
    text = "\n".join(commands(script)) if script in WORKFLOWS else script.read_text("utf-8")
    run = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_python_versions_are_those_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    jobs = YAML(typ="safe").load(GITHUB / "workflows/test.yml")["jobs"].values()
    for job in jobs:
        assert job["strategy"]["matrix"]["python"] == named
