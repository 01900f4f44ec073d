"""Pictures of the stored records."""

import math
import pathlib
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scores import AVERAGED, UNDECAYED, Entry, Scores, median

OURS = ("tab:red", "tab:orange", "tab:pink", "tab:brown", "tab:olive")
GRIDS = (
    ("adam_cosine", "last", "Adam, cosine", "tab:blue"),
    ("adam_constant", "last", "Adam, constant", "tab:gray"),
    ("adam_constant", "readout", "Adam, constant, averaged", "tab:green"),
)


def draw(scores: Scores, folder: pathlib.Path, suite: str) -> list[pathlib.Path]:
    """Writes all pictures of a suite; returns their paths."""
    pictures = {
        "sensitivity": _grid(scores, _sensitivity),
        "step_size": _grid(scores, _step_size),
        "curvature": _grid(scores, _curvature),
        "profile": _profile(scores),
    }
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{suite}_{name}.png")
        figure.savefig(paths[-1], dpi=80)
    return paths


def _grid(scores: Scores, panel: Callable[[Scores, str, Axes], None]) -> Figure:
    columns = min(4, len(scores.workloads))
    rows = math.ceil(len(scores.workloads) / columns)
    figure = Figure((3.2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(scores.workloads) :]:
        axis.remove()
    for workload, axis in zip(scores.workloads, axes.flat, strict=False):
        panel(scores, workload, axis)
        axis.set_title(workload, fontsize=9)
        axis.tick_params(labelsize=7)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(2, columns), fontsize=8
        )
    return figure


def _sensitivity(scores: Scores, workload: str, axis: Axes) -> None:
    """Final loss against the rate; ours, which has none, as a line."""
    for optimizer, result, label, color in GRIDS:
        points = sorted(
            (record["setting"]["rate"], median(record, result))
            for record in scores.settings(workload, optimizer)
            if record["setting"]["weight_decay"] == 0.0
        )
        if points:
            axis.plot(*zip(*points, strict=True), ".-", color=color, label=label)
    for entry, color in _main(scores.headline):
        axis.axhline(scores.loss(workload, entry), color=color, label=entry.label)
    axis.set_xscale("log")
    losses = (scores.loss(workload, entry) for entry in scores.entries)
    best = min((loss for loss in losses if math.isfinite(loss)), default=None)
    if best is not None:
        # Rates far off may leave the picture, ours and the best rates may not.
        shown = [*scores.headline, UNDECAYED, AVERAGED]
        losses = (scores.loss(workload, entry) for entry in shown)
        worst = max((loss for loss in losses if math.isfinite(loss)), default=best)
        axis.set_ylim(0.95 * best, max(1.8 * best, 1.2 * worst))


def _step_size(scores: Scores, workload: str, axis: Axes) -> None:
    _trace(scores, workload, axis, "step_size")
    axis.set_yscale("log")


def _curvature(scores: Scores, workload: str, axis: Axes) -> None:
    _trace(scores, workload, axis, "curvature")
    axis.set_yscale("symlog", linthresh=1e-2)
    axis.axhline(0.0, color="black", linewidth=0.5)


def _trace(scores: Scores, workload: str, axis: Axes, reading: str) -> None:
    for entry, color in _main(scores.headline):
        record = scores.best(workload, entry)
        if record is None or record["failure"] is not None:
            continue
        values = [math.nan if value is None else value for value in record["trace"][reading]]
        steps = [record["every"] * number for number in range(1, len(values) + 1)]
        axis.plot(steps, values, color=color, label=entry.label)


def _profile(scores: Scores) -> Figure:
    """Fraction of the workloads on which the loss is within a factor of the best."""
    figure = Figure((7.0, 4.5), layout="constrained")
    axis = figure.subplots()
    entries = [*scores.tuned, *scores.headline, *scores.peers]
    # What was run on few problems would leave few on which all can be compared.
    compared = [e for e in entries if 3 * len(scores.ratios(e)) >= 2 * len(scores.workloads)]
    for entry, ratios in scores.profile(compared).items():
        fractions = [number / len(ratios) for number in range(1, len(ratios) + 1)]
        ours = entry in scores.headline
        axis.step(
            [1.0, *ratios], [0.0, *fractions], where="post",
            label=entry.label, linewidth=2.5 if ours else 1.0,
            linestyle="--" if entry in scores.peers else "-",
        )  # fmt: skip
    axis.set(xlim=(1.0, 2.0), ylim=(0.0, 1.0))
    axis.set(xlabel="held-out loss over the best", ylabel="fraction of workloads")
    if compared:
        axis.legend(fontsize=6, ncols=2)
    return figure


def _main(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    return list(zip(entries, OURS, strict=False))
