"""Pictures of the stored records."""

import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks.scores import REFERENCE, Entry, Scores, median

OURS = ("tab:red", "tab:orange", "tab:pink", "tab:brown", "tab:olive", "gold")
TUNED = ("black", "tab:blue", "tab:cyan", "tab:green", "tab:purple", "rebeccapurple", "navy")
GRIDS = (
    ("adam_cosine", "last", "Adam, cosine", "tab:blue"),
    ("adam_constant", "last", "Adam, constant", "tab:gray"),
    ("adam_constant", "readout", "Adam, constant, averaged", "tab:green"),
)


def draw(scores: Scores, folder: pathlib.Path, suite: str) -> list[pathlib.Path]:
    """Writes all pictures of a suite; returns their paths."""
    compared = [w for w in scores.workloads if math.isfinite(scores.loss(w, REFERENCE))]
    pictures = {
        "sensitivity": _grid(
            scores,
            compared,
            _sensitivity,
            "learning rate of Adam",
            f"held-out loss over that of {REFERENCE.label}",
        ),
        "step_size": _grid(scores, scores.workloads, _step_size, "step", "step size"),
        "curvature": _grid(
            scores, scores.workloads, _curvature, "step", "curvature about the running mean"
        ),
        "profile": _profile(scores),
    }
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{suite}_{name}.png")
        figure.savefig(paths[-1], dpi=80)
    return paths


def _grid(
    scores: Scores,
    workloads: Sequence[str],
    panel: Callable[[Scores, str, Axes], None],
    across: str,
    upwards: str,
) -> Figure:
    columns = max(1, min(4, len(workloads)))
    rows = max(1, math.ceil(len(workloads) / columns))
    figure = Figure((3.2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(workloads) :]:
        axis.remove()
    for number, (workload, axis) in enumerate(zip(workloads, axes.flat, strict=False)):
        panel(scores, workload, axis)
        axis.set_title(workload, fontsize=9)
        axis.tick_params(labelsize=7)
        if number >= len(workloads) - columns:
            axis.set_xlabel(across, fontsize=8)
    figure.supylabel(upwards, fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(2, columns), fontsize=8
        )
    return figure


def _sensitivity(scores: Scores, workload: str, axis: Axes) -> None:
    """Final loss against the rate; ours, which has none, as a line."""
    reference = scores.loss(workload, REFERENCE)
    for optimizer, result, label, color in GRIDS:
        points = sorted(
            (record["setting"]["rate"], median(record, result) / reference)
            for record in scores.settings(workload, optimizer)
            if record["setting"]["weight_decay"] == 0.0
        )
        if points:
            axis.plot(*zip(*points, strict=True), ".-", color=color, label=label)
    for entry, color in _main(scores.headline):
        axis.axhline(scores.ratio(workload, entry), color=color, label=entry.label)
    axis.set(xscale="log", yscale="log")
    # At least this wide, so that what is level looks level. Rates far off may leave the picture,
    # ours may not.
    ratios = np.array([0.5, 2.0, *(scores.ratio(workload, entry) for entry in scores.headline)])
    ratios = ratios[np.isfinite(ratios)]
    axis.set_ylim(ratios.min() / 1.1, ratios.max() * 1.1)
    axis.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _step_size(scores: Scores, workload: str, axis: Axes) -> None:
    _trace(scores, workload, axis, "step_size")
    axis.set_yscale("log")


def _curvature(scores: Scores, workload: str, axis: Axes) -> None:
    _trace(scores, workload, axis, "curvature")
    # Linear between the decades next to 0 that hold the smaller half of all values.
    sizes = np.abs(np.concatenate([[1.0], *(line.get_ydata() for line in axis.lines)]))
    decade = 10.0 ** math.ceil(math.log10(np.nanmedian(np.where(sizes > 0.0, sizes, np.nan))))
    largest = max(10.0 * decade, float(np.nanmax(sizes[1:], initial=decade)))
    axis.set_yscale("symlog", linthresh=decade)
    decades = decade * 10.0 ** np.arange(0, math.log10(largest / decade) + 1, 2)
    axis.yaxis.set_major_locator(FixedLocator([*-decades[::-1], 0.0, *decades]))
    axis.yaxis.set_minor_locator(NullLocator())
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
    figure = Figure((9.0, 4.5), layout="constrained")
    axis = figure.subplots()
    entries = [*scores.headline, *scores.tuned, *scores.peers]
    # What was run on few problems would leave few on which all can be compared.
    compared = [e for e in entries if 3 * len(scores.ratios(e)) >= 2 * len(scores.workloads)]
    colors = dict(_main(scores.headline)) | dict(zip(scores.tuned, TUNED, strict=False))
    workloads, drawn = 0, set()
    for entry, ratios in scores.profile(compared).items():
        workloads = len(ratios)
        fractions = [number / workloads for number in range(1, workloads + 1)]
        # Peers are many; who they are is in the tables.
        color, label = colors.get(entry, "lightgray"), entry.label
        if entry in scores.peers:
            label = "peers at their defaults" if "lightgray" not in drawn else None
        drawn.add(color)
        axis.step(
            [1.0, *ratios],
            [0.0, *fractions],
            where="post",
            label=label,
            color=color,
            linewidth=2.5 if entry in scores.headline else 1.2,
            zorder=1.0 if entry in scores.peers else 2.0,
        )
    axis.set(xlim=(1.0, 2.0), ylim=(0.0, 1.0))
    axis.set(
        xlabel="held-out loss over the best",
        ylabel=f"fraction of {workloads} workloads that all were run on",
    )
    if compared:
        figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _main(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    return list(zip(entries, OURS[: len(entries)], strict=True))
