"""The notebooks are what their sources say, small, and run from the top."""

import base64
import json

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from notebooks.__main__ import FOLDER, SOURCES, assemble, execute

LARGEST_PICTURE = 60_000  # bytes


def built(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]


def test_every_notebook_has_a_source():
    assert SOURCES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_notebook_was_built_from_its_source(name):
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in built(name)]
    assert cells == [(cell.cell_type, cell.source) for cell in assemble(name).cells]


@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_complete_and_small(name):
    code = [cell for cell in built(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    # Warnings and progress bars go to stderr, which a reader should not have to see.
    assert {(output["output_type"], output.get("name")) for output in outputs} <= {
        ("display_data", None),
        ("stream", "stdout"),
    }
    pictures = [output["data"]["image/png"] for output in outputs if "data" in output]
    assert pictures
    assert max(len(base64.b64decode(picture)) for picture in pictures) < LARGEST_PICTURE


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_notebook_runs(name):
    execute(assemble(name))
