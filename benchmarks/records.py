"""What is stored of a run: one line of JSON per workload, optimizer and setting."""

import ast
import contextlib
import fcntl
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import parabolic_optax
from benchmarks.optimizers import Optimizer, Setting
from benchmarks.training import Run
from benchmarks.workloads import Workload
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results"
Record = dict[str, Any]


def of_runs(
    workload: Workload,
    optimizer: Optimizer,
    setting: Setting,
    seeds: list[int],
    runs: list[Run],
    *,
    timed: bool,
    failure: str | None = None,
) -> Record:
    """The record of the runs of all seeds: final losses of each, median curves.

    Where an exception ended them, `failure` says which, and there are no numbers. A loss
    that is not finite is stored as null.
    """
    record = {
        "workload": workload.name,
        "optimizer": optimizer.name,
        "kind": optimizer.kind,
        "setting": {name: _plain(float(value)) for name, value in setting.items()},
        "steps": workload.steps,
        "batch": workload.batch,
        "seeds": seeds,
        "source": _source() if optimizer.kind == "ours" else None,
        "environment": _environment(),
        "failure": failure,
    }
    if failure is not None:
        return record
    return record | {
        "last": [_plain(run.last[-1]) for run in runs],
        "readout": [_plain(run.readout[-1]) for run in runs],
        "every": int(runs[0].step[0]),
        "curves": {
            name: _median([getattr(run, name) for run in runs])
            for name in ("train", "last", "readout")
            if name != "readout" or optimizer.readout is not None
        },
        "trace": {name: _median([run.trace[name] for run in runs]) for name in runs[0].trace},
        # The fastest seed is the one that least disturbed.
        "seconds": _plain(min(run.seconds for run in runs)) if timed else None,
        "compile_seconds": _plain(runs[0].compile_seconds) if timed else None,
    }


def read(path: pathlib.Path) -> dict[tuple, Record]:
    """All records of a file by their key; the newest of those with the same key."""
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return {
        key(record["workload"], record["optimizer"], record["setting"]): record for record in lines
    }


def append(path: pathlib.Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def key(workload: str, optimizer: str, setting: Setting) -> tuple:
    """What a record is about; a newer one replaces it."""
    rounded = {name: _plain(value) for name, value in setting.items()}
    return workload, optimizer, tuple(sorted(rounded.items()))


def is_done(
    record: Record | None, workload: Workload, optimizer: Optimizer, seeds: list[int]
) -> bool:
    """Whether a stored record makes the runs unnecessary.

    It does not where it has fewer seeds, where the workload has another length, where there is no
    average of a peer's, or, for ours, where the code of the package was another.
    """
    return (
        record is not None
        and set(seeds) <= set(record["seeds"])
        and (record["steps"], record["batch"]) == (workload.steps, workload.batch)
        and (optimizer.kind != "ours" or record["source"] == _source())
        and (optimizer.kind != "peer" or "readout" in record.get("curves", {"readout"}))
    )


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[Any]:
    """Yields a context that says whether what is timed in it is undisturbed.

    Every runner holds a shared lock on a file in `folder`. A timing counts if the lock could
    be made exclusive for its duration, and if the machine was not busy with other things.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        @contextlib.contextmanager
        def timing():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield os.getloadavg()[0] <= (os.cpu_count() or 1)
            except BlockingIOError:
                yield False
            finally:
                fcntl.flock(file, fcntl.LOCK_SH)

        yield timing


@functools.cache
def _source() -> str:
    """A fingerprint of the package's code, without comments and docstrings."""
    folder = pathlib.Path(parabolic_optax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                del node.body[0]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


@functools.cache
def _environment() -> Record:
    full = environment()
    versions = {name: version for name, version in full["versions"].items() if version}
    return {name: full[name] for name in ("date", "python", "cores", "device")} | versions


def _median(curves: list[np.ndarray]) -> list[float | None]:
    return [_plain(value) for value in np.median(np.stack(curves), 0)]


def _plain(value: Any) -> float | None:
    """Five digits are plenty, and JSON knows no NaN."""
    return float(f"{float(value):.5g}") if math.isfinite(value) else None
