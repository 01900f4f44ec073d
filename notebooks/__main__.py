"""Builds the notebooks from their sources: ``python -m notebooks [NAME ...]``.

Each ``NN_name.py`` beside this file is a notebook in jupytext's percent format, which is what
people edit and review. It is run from the top in a fresh kernel and stored with its outputs as
``NN_name.ipynb``, which is what people open. Without names, all are built.
"""

import argparse
import base64
import io
import pathlib
import tempfile
import time
import tomllib
from collections.abc import Sequence

import jupytext
import nbclient
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
SOURCES = {path.stem: path for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))}


def assemble(name: str) -> nbformat.NotebookNode:
    """The notebook without outputs: its title, a badge, the installation, then the rest."""
    cells = jupytext.read(SOURCES[name]).cells
    repository = _repository()
    page = f"github/{repository.split('github.com/')[1]}/blob/main/notebooks/{name}.ipynb"
    cells[1:1] = [
        new_markdown_cell(
            "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
            f"(https://colab.research.google.com/{page})"
        ),
        new_code_cell(
            "try:\n"
            "    import parabolic_optax\n"
            "except ModuleNotFoundError:\n"
            f'    %pip install -q "parabolic-optax[demo] @ git+{repository}"'
        ),
    ]
    notebook = nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"},
            "language_info": {"name": "python"},
        },
    )
    for number, cell in enumerate(cells):
        # Chosen ids and no metadata: the file changes only where its contents do.
        cell.id, cell.metadata = f"cell-{number}", {}
    return notebook


def execute(notebook: nbformat.NotebookNode) -> float:
    """Runs all cells in a fresh kernel and an empty folder; returns the seconds it took.

    Raises:
      CellExecutionError: a cell raised.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=1800,
            record_timing=False,
            # One output however often the text was flushed, so that equal runs give equal files.
            coalesce_streams=True,
            # Not that the kernel can be reached without encryption: it serves this run alone.
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data = {"image/png": _small(output.data["image/png"])}
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what was named; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}")
    names = parser.parse_args(arguments).names
    if unknown := set(names) - set(SOURCES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SOURCES)}")
    for name in names or SOURCES:
        notebook = assemble(name)
        seconds = execute(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name:32} {seconds:6.1f} s", flush=True)
    return 0


def _small(picture: str) -> str:
    """The picture with a palette of 64 colours, which plots do not exceed to the eye."""
    packed = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(64, kmeans=1).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode("ascii")


def _repository() -> str:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Source"]


if __name__ == "__main__":
    raise SystemExit(main())
