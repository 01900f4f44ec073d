"""What is left of the runs: a table for the terminal and a JSON record."""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import sys
from typing import Any

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from parabolic_optax._demo.train import Run

PACKAGES = ("parabolic-optax", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")


def final(run: Run) -> dict[str, float]:
    """The numbers a run ends with; the training loss is a mean over its last tenth."""
    tail = max(1, run.done // 10)
    numbers = {
        "train_loss": float(np.mean(run.curves["loss"][-tail:])),
        "held_out_loss": run.held_out["loss"][-1],
        "held_out_accuracy": run.held_out["accuracy"][-1],
    }
    return numbers | {
        name: run.curves[name][-1] for name in ("step_size", "curvature") if name in run.curves
    }


def table(runs: list[Run]) -> Table:
    """One line per run; the lowest losses and the highest accuracy are bold."""
    numbers = [final(run) for run in runs]
    # A diverged run has a loss that is not a number; it must not win.
    best = {
        "train_loss": min((n["train_loss"] for n in numbers), key=_nan_last),
        "held_out_loss": min((n["held_out_loss"] for n in numbers), key=_nan_last),
        "held_out_accuracy": max(n["held_out_accuracy"] for n in numbers),
    }
    result = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    result.add_column("optimizer", no_wrap=True)
    for header in ("train", "held-out", "accuracy", "step size", "curvature", "compile", "step"):
        result.add_column(header, justify="right", no_wrap=True)
    for run, n in zip(runs, numbers, strict=True):
        step_size = n.get("step_size", run.rate)
        result.add_row(
            Text(run.name + ("" if run.complete else f" (stopped at {run.done})")),
            _cell(_number(n["train_loss"]), n["train_loss"] == best["train_loss"]),
            _cell(_number(n["held_out_loss"]), n["held_out_loss"] == best["held_out_loss"]),
            _cell(
                f"{n['held_out_accuracy']:.2%}",
                n["held_out_accuracy"] == best["held_out_accuracy"],
            ),
            f"{step_size:.1e}",
            f"{n['curvature']:+.1e}" if "curvature" in n else "",
            f"{run.compile_seconds:.1f} s",
            f"{1e3 * run.step_seconds:.1f} ms",
            style="" if run.rate is None else "dim",
        )
    return result


def save(path: pathlib.Path, config: dict[str, Any], runs: list[Run]) -> None:
    """Writes configuration, environment, curves and final numbers as JSON."""
    record = {
        "config": config,
        "environment": environment(),
        "runs": [
            {
                "optimizer": run.name,
                "rate": run.rate,
                "steps_done": run.done,
                "complete": run.complete,
                "seconds": run.seconds,
                "step_seconds": run.step_seconds,
                "final": final(run),
                "curves": run.curves,
                "held_out": run.held_out,
            }
            for run in runs
        ],
    }
    path.write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n", "utf-8")


def environment() -> dict[str, Any]:
    """Where and with what the numbers were made."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # Run from a source tree.


def _plain(value: Any) -> Any:
    """Six digits are plenty, and JSON knows no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _number(loss: float) -> str:
    return f"{loss:.4f}" if loss < 1e3 else f"{loss:.1e}"


def _cell(text: str, bold: bool) -> Text:
    return Text(text, style="bold" if bold else "")


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
