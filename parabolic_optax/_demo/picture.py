"""The picture: ours as bold lines against a light fan of Adam's constant rates."""

import math
import pathlib
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullLocator,
    SymmetricalLogLocator,
)
from scipy.optimize import isotonic_regression
from scipy.signal import lfilter

from parabolic_optax._demo.report import final
from parabolic_optax._demo.train import Run

# Okabe and Ito's colours, told apart with every kind of colour vision.
COLOURS = {
    "parabolic_adam": "#0072B2",
    "parabolic_sgd": "#D55E00",
    "parabolic_adamw": "#009E73",
    "parabolic_muon": "#CC79A7",
}
INK, PALE, RULE = "#1c1c1c", "#6f6f6f", "#ececec"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#a8a8a8",
    "axes.labelcolor": PALE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.0,
    "grid.color": RULE,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
LEFT, RIGHT = 0.05, 0.95


def draw(path: pathlib.Path, config: dict[str, Any], runs: list[Run]) -> None:
    """Draws the runs, complete or not, as a PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 8), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        top = figure.add_gridspec(1, 2, left=LEFT, right=RIGHT, bottom=0.49, top=0.79, wspace=0.2)
        low = figure.add_gridspec(1, 3, left=LEFT, right=RIGHT, bottom=0.07, top=0.35, wspace=0.34)
        _heading(figure, config, runs)
        _training_loss(figure.add_subplot(top[0]), runs)
        _held_out_accuracy(figure.add_subplot(top[1]), runs)
        _step_size(figure.add_subplot(low[0]), runs)
        _curvature(figure.add_subplot(low[1]), runs)
        _loss_by_rate(figure.add_subplot(low[2]), runs)
        figure.savefig(path)


def _heading(figure: Figure, config: dict[str, Any], runs: list[Run]) -> None:
    title = config["title"][0].upper() + config["title"][1:]
    figure.text(LEFT, 0.943, f"{title}: no learning rate given", fontsize=19, weight="bold")
    figure.text(
        LEFT,
        0.912,
        f"{config['model'].capitalize()}, {config['steps']:,} steps of {config['batch']}"
        f" {config['unit']}; same start, batches and averaging for every run.",
        color=PALE,
        fontsize=10.5,
    )
    keys = [(Line2D([], [], **_line(run, runs)), run.name) for run in runs if run.rate is None]
    if fan := _fan(runs):
        rates = _rate(fan[0][0]) + (f" to {_rate(fan[-1][0])}" if len(fan) > 1 else "")
        keys.append((Line2D([], [], color="#a8a8a8", lw=1.4), f"Adam, constant rate {rates}"))
    figure.legend(
        *zip(*keys, strict=True),
        loc="upper left",
        bbox_to_anchor=(LEFT - 0.006, 0.905),
        ncols=len(keys),
        frameon=False,
        fontsize=10.5,
        handlelength=1.6,
        columnspacing=2.2,
    )


def _training_loss(axes: Axes, runs: list[Run]) -> None:
    _panel(axes, runs, "Training loss", "of the batches, smoothed over about 5 % of the run")
    ends = []
    for run in runs:
        loss = _smooth(np.asarray(run.curves["loss"]), max(1, run.steps // 20))
        axes.plot(np.arange(1, run.done + 1), loss, **_line(run, runs))
        if run.rate is not None:
            ends.append((float(loss[-1]), _rate(run.rate), PALE))
    _loss_axis(axes, runs)
    _label_ends(axes, ends)


def _held_out_accuracy(axes: Axes, runs: list[Run]) -> None:
    _panel(axes, runs, "Held-out accuracy", "of averaged parameters; axis logarithmic in the error")
    for run in runs:
        # A logarithm of the error shows the last percents, where the runs differ.
        error = 1.0 - np.minimum(run.held_out["accuracy"], 1.0 - 1e-4)
        axes.plot(run.held_out["step"], error, **_line(run, runs))
    axes.set_yscale("log")
    axes.invert_yaxis()
    low, high = np.log(axes.get_ylim())
    ticks: list[float] = []
    for percent in (99.8, 99.5, 99, 98, 97, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0):
        place = (np.log(1 - percent / 100) - low) / (high - low)
        taken = ticks and place > (np.log(1 - ticks[-1] / 100) - low) / (high - low) - 0.09
        if 0 <= place <= 1 and not taken:
            ticks.append(percent)
    axes.yaxis.set_major_locator(FixedLocator([1 - tick / 100 for tick in ticks]))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g} %" for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())


def _step_size(axes: Axes, runs: list[Run]) -> None:
    _panel(axes, runs, "Step size", "in units of the base's direction; grey: Adam's rates")
    for run in runs:
        if run.rate is None:
            axes.plot(np.arange(1, run.done + 1), run.curves["step_size"], **_line(run, runs))
        else:
            axes.axhline(run.rate, **{**_line(run, runs), "lw": 0.9})
    _log_axis(axes)
    _label_ends(axes, [(rate, _rate(rate), PALE) for rate, _ in _fan(runs)])


def _curvature(axes: Axes, runs: list[Run]) -> None:
    _panel(axes, runs, "Curvature", "about the running mean, for all tensors together")
    ours = [run for run in runs if run.rate is None]
    curves = [np.asarray(run.curves["curvature"], float) for run in ours]
    settled = np.abs(np.concatenate([curve[len(curve) // 2 :] for curve in curves] or [[1.0]]))
    unit = 10.0 ** math.ceil(math.log10(max(np.nanmedian(settled), 1e-12)))
    axes.set_yscale("symlog", linthresh=unit, linscale=1.0)
    for run, curve in zip(ours, curves, strict=True):
        # Exactly 0 before anything has moved: there is no parabola yet.
        curve = np.where(curve == 0.0, np.nan, curve)
        axes.plot(np.arange(1, run.done + 1), curve, **{**_line(run, runs), "lw": 1.6})
    axes.axhline(0.0, color="#a8a8a8", lw=0.8)
    locator = SymmetricalLogLocator(base=10.0, linthresh=unit)
    locator.numticks = 7
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: _rate(y).replace("-", "−", int(y < 0)) if y else "0")
    )
    note = "below 0: the loss still falls along\nthe way, the steps get longer"
    place = axes.transAxes
    axes.text(0.98, 0.2, note, transform=place, ha="right", color=PALE, fontsize=8.5)


def _loss_by_rate(axes: Axes, runs: list[Run]) -> None:
    fan = _fan(runs)
    subtitle = "of averaged parameters, against Adam's rate" if fan else ""
    _panel(axes, runs, "Held-out loss at the end", subtitle)
    rates, losses = [rate for rate, _ in fan], [final(run)["held_out_loss"] for _, run in fan]
    axes.plot(rates, losses, color="#c4c4c4", lw=1.4)
    for (rate, run), loss in zip(fan, losses, strict=True):
        axes.plot(rate, loss, "o", color=_line(run, runs)["color"], ms=7, zorder=4)
    ends = []
    for run in runs:
        if run.rate is None:
            loss = final(run)["held_out_loss"]
            axes.axhline(loss, **_line(run, runs))
            ends.append((loss, f"{loss:#.3g}", COLOURS[run.name]))
    axes.xaxis.set_visible(bool(fan))
    if fan:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: _rate(rate)))
        axes.set_xlabel("Adam's constant rate")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06, y=0.12)
    axes.autoscale(axis="x")
    _loss_axis(axes, runs)
    _label_ends(axes, ends)


def _panel(axes: Axes, runs: list[Run], title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, weight="bold", pad=24)
    axes.annotate(
        subtitle, (0, 1), (0, 10), xycoords="axes fraction", textcoords="offset points", color=PALE
    )
    axes.set_xlim(0, max(run.steps for run in runs))
    axes.set_xlabel("step", loc="right")


def _line(run: Run, runs: list[Run]) -> dict[str, Any]:
    """Ours in colour; Adam in grey, darker the larger the rate."""
    if run.rate is None:
        return {"color": COLOURS[run.name], "lw": 2.6, "zorder": 3}
    rates = [rate for rate, _ in _fan(runs)]
    share = rates.index(run.rate) / max(1, len(rates) - 1)
    return {"color": str(0.82 - 0.3 * share), "lw": 1.2, "zorder": 2}


def _fan(runs: list[Run]) -> list[tuple[float, Run]]:
    """Adam's runs with their rates, from the smallest rate to the largest."""
    return sorted(((r.rate, r) for r in runs if r.rate is not None), key=lambda pair: pair[0])


def _rate(rate: float) -> str:
    """The rate as the command line takes it: 3e-3."""
    mantissa, exponent = f"{rate:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _loss_axis(axes: Axes, runs: list[Run]) -> None:
    """A logarithmic axis on which a run that blew up does not hide the others."""
    axes.set_yscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], 4.0 * max(run.curves["loss"][0] for run in runs)))
    _log_axis(axes)


def _log_axis(axes: Axes) -> None:
    """Plain numbers where few decades are shown, and as many as fit."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    if decades > 2.5:
        subs = [1.0]
    elif decades > 0.9:
        subs = [1.0, 2.0, 5.0]
    elif decades > 0.3:
        subs = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]
    else:
        subs = np.arange(1.0, 10.0, 0.2).tolist()
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    short = _rate if low < 1e-4 else "{:g}".format
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short(y)))
    axes.yaxis.set_minor_locator(NullLocator())


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]], gap: float = 11.0) -> None:
    """Writes labels beside the right ends of lines, no closer than `gap` points."""
    ends = sorted((end for end in ends if math.isfinite(end[0])), key=lambda end: end[0])
    if not ends:
        return
    scale = 72.0 / axes.figure.dpi
    low, high = axes.get_ylim()
    ends = [(min(max(height, low), high), text, colour) for height, text, colour in ends]
    heights = axes.transData.transform([(1.0, height) for height, _, _ in ends])[:, 1] * scale
    # The nearest heights in the same order with the gaps between them.
    shift = gap * np.arange(len(ends))
    placed = isotonic_regression(heights - shift).x + shift
    bottom = axes.transAxes.transform((0, 0))[1] * scale
    for (_, text, colour), height in zip(ends, placed, strict=True):
        axes.annotate(
            text,
            (1, 0),
            (6, height - bottom),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
            annotation_clip=False,
        )


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Exponential moving average that looks back over about `width` values."""
    keep = 1.0 - 2.0 / (width + 1.0)
    sums, weights = (
        np.asarray(lfilter([1.0], [1.0, -keep], terms)) for terms in (values, np.ones(len(values)))
    )
    return sums / weights
