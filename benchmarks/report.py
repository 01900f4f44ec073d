"""Tables and pictures from the stored records: ``python -m benchmarks.report``.

Nothing is trained here. ``--headline short`` prints the table of the README, ``--headline full``,
``--parts`` and ``--table`` those of `benchmarks/README.md`.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import records
from benchmarks.scores import (
    AVERAGED,
    FIXED,
    PARTS,
    REFERENCE,
    UNDECAYED,
    Entry,
    Scores,
    geometric_mean,
    interval,
)
from benchmarks.workloads import SUITES

HEADLINE_SUITES = ("audit-tables", "audit", "confirmation")


def load(suite: str, folder: pathlib.Path = records.RESULTS) -> Scores:
    """The records of a suite; its workloads in the order of their definition."""
    stored = records.read(folder / f"{suite}.jsonl").values()
    order = {name: number for number, name in enumerate(SUITES[suite])}
    return Scores(sorted(stored, key=lambda record: order.get(record["workload"], len(order))))


def table(scores: Scores) -> str:
    """Every workload's loss of the reference, and ratios to it."""
    columns = [
        UNDECAYED,
        AVERAGED,
        *scores.fixed[:1],
        *scores.headline,
    ]
    lines = _head(
        "held-out loss, ratio",
        [REFERENCE.label, *(entry.label for entry in columns), "best peer at its defaults"],
    )
    for workload in scores.workloads:
        cells = [_loss(scores.loss(workload, REFERENCE))]
        cells += [_ratio(scores.ratio(workload, entry)) for entry in columns]
        peers = [(scores.ratio(workload, peer), peer.label) for peer in scores.peers]
        ratio, label = min((p for p in peers if not math.isnan(p[0])), default=(math.nan, ""))
        lines.append(_row(workload, [*cells, f"{_ratio(ratio)} {label}".strip()]))
    single = [_single_best_peer(scores)]
    for name, reduce in (
        ("geometric mean", lambda ratios: _ratio(geometric_mean(ratios))),
        ("95 % interval", _interval),
        ("median", lambda ratios: _ratio(_median(ratios))),
        ("worst", lambda ratios: _ratio(_worst(ratios))),
    ):
        cells = [reduce(scores.ratios(entry)) for entry in (REFERENCE, *columns)]
        cells += [f"{reduce(scores.ratios(peer))} {peer.label}" if peer else "–" for peer in single]
        lines.append(_row(f"**{name}**", cells))
    return "\n".join(lines)


def headline(suites: dict[str, Scores], short: bool = False) -> str:
    """Ratios to tuned AdamW over all problems of each of several suites.

    The short form, for the README, leaves out the worst, and of the settings for all but the best
    of Adam and the best of Muon.
    """
    columns = [f"{name}, {len(s.ratios(REFERENCE))} problems" for name, s in suites.items()]
    ours = [entry for entry in next(iter(suites.values())).headline if entry.decay == 0.0]
    # What is to be taken first stands first.
    ours.sort(key=lambda entry: entry.label not in ("parabolic_adamw()", "parabolic_muon()"))
    fixed = [_best_setting(base, suites) for base in ("adam", "muon")] if short else FIXED
    peers = dict.fromkeys(map(_single_best_peer, suites.values()))
    title = f"mean ratio to {REFERENCE.label} (95 % interval)"
    lines = _head(title if short else f"{title}, worst", columns)
    for entry in (*ours, AVERAGED, *fixed, *filter(None, peers)):
        cells = []
        for scores in suites.values():
            ratios = scores.ratios(entry)
            mean, worst = _ratio(geometric_mean(ratios)), _ratio(_worst(ratios))
            fewer = len(ratios) < len(scores.ratios(REFERENCE))
            of = f"; {len(ratios)} problems" if fewer else ""
            cells.append(f"{mean} ({_interval(ratios)}){'' if short else f', {worst}'}{of}")
        lines.append(_row(entry.label, cells))
    return "\n".join(lines)


def parts(suites: dict[str, Scores]) -> str:
    """What the parts of the method are worth: ratios of one entry to another."""
    columns = [*suites, f"all {sum(len(s.ratios(REFERENCE)) for s in suites.values())}", "won"]
    lines = _head("mean ratio (95 % interval)", columns)
    for label, one, other in PARTS:
        each = [scores.ratios(one, other) for scores in suites.values()]
        every = np.concatenate(each)
        cells = [_ratio(geometric_mean(ratios)) for ratios in each]
        cells += [f"{_ratio(geometric_mean(every))} ({_interval(every)})"]
        lines.append(_row(label, [*cells, _percent(float(np.mean(every < 1.0)))]))
    return "\n".join(lines)


def summary(scores: Scores) -> str:
    """One line per entry, over all workloads that it and the other were run on.

    Workloads on which most seeds failed are counted, and are in no mean.
    """
    rivals = (REFERENCE, UNDECAYED, AVERAGED)
    columns = [
        column for rival in rivals for column in (f"to {rival.label}", "worst", "within 1.05")
    ]
    columns += [f"95 % interval, to {REFERENCE.label}", "median"]
    lines = _head("geometric mean of ratios", [*columns, "workloads", "failed"])
    for entry in scores.entries:
        cells = []
        for rival in rivals:
            ratios = scores.ratios(entry, rival)
            finite = ratios[np.isfinite(ratios)]
            cells += [_ratio(geometric_mean(finite)), _ratio(_worst(finite))]
            cells.append(str(int(np.sum(ratios <= 1.05))))
        ratios = scores.ratios(entry)
        counts = [str(len(ratios)), str(int(np.isinf(ratios).sum()))]
        lines.append(
            _row(entry.label, [*cells, _interval(ratios), _ratio(_median(ratios)), *counts])
        )
    return "\n".join(lines)


def details(scores: Scores) -> str:
    """Ratios to the reference, one line per entry and one column per workload."""
    return _by_workload(
        f"ratio to {REFERENCE.label}",
        scores,
        scores.entries,
        lambda workload, entry: _ratio(scores.ratio(workload, entry)),
    )


def one_setting(scores: Scores) -> str:
    """Tuned methods with one rate and decay for all workloads, if they were run with it on all."""
    lines = _head(f"one setting for all, to {REFERENCE.label}", ["rate", "decay", "mean", "worst"])
    everywhere = len(scores.ratios(REFERENCE))
    for method, result in dict.fromkeys(
        (entry.optimizer, entry.result) for entry in (*scores.tuned, *scores.fixed)
    ):
        settings = {
            (record["setting"]["rate"], record["setting"]["weight_decay"])
            for record in scores.records
            if record["optimizer"] == method and "rate" in record["setting"]
        }
        for rate, decay in sorted(settings):
            ratios = scores.ratios(Entry("", method, result, decay, rate))
            if len(ratios) == everywhere:
                mean, worst = _ratio(geometric_mean(ratios)), _ratio(_worst(ratios))
                lines.append(_row(f"{method}, {result}", [f"{rate:g}", f"{decay:g}", mean, worst]))
    return "\n".join(lines)


def best_settings(scores: Scores) -> str:
    """Where the tuned methods have their best rate and weight decay."""

    def cell(workload: str, entry: Entry) -> str:
        record = scores.best(workload, entry)
        setting = record["setting"] if record else {}
        chosen = [f"{setting[name]:g}" for name in ("rate", "weight_decay") if name in setting]
        return ", ".join(chosen) or ("default" if record else "–")

    entries = [*scores.tuned, *(e for e in scores.ours_decayed if e.decay is None)]
    return _by_workload("best rate, weight decay", scores, entries, cell)


def wins(scores: Scores) -> str:
    """Fraction of pairs of workload and seed that ours win, against each peer and against all."""
    ours = [*scores.ours, *(entry for entry in scores.ours_decayed if entry.decay is not None)]
    if not scores.peers:
        return "none were run"
    lines = _head("pairs won", [entry.label for entry in ours])
    for peer in scores.peers:
        lines.append(_row(peer.label, [_percent(scores.wins(entry, [peer])) for entry in ours]))
    lines.append(
        _row("all of them at once", [_percent(scores.wins(entry, scores.peers)) for entry in ours])
    )
    return "\n".join(lines)


def steps(scores: Scores) -> str:
    """How much of the run it takes to reach the final loss of the tuned cosine."""
    return _by_workload(
        f"fraction of the run to the loss of {REFERENCE.label}",
        scores,
        scores.entries,
        lambda workload, entry: _fraction(scores.steps_to_target(workload, entry)),
    )


def seconds(scores: Scores) -> str:
    """Milliseconds per step, where no other runner was at work."""

    def cell(workload: str, entry: Entry) -> str:
        record = scores.best(workload, entry)
        time = record.get("seconds") if record else None
        return f"{1e3 * time / record['steps']:.2f}" if record and time else "–"

    return _by_workload("ms per step", scores, scores.entries, cell)


def failures(scores: Scores) -> str:
    """Runs that raised, and runs with a loss that is not finite; of tuned methods, at the best."""
    lines = [
        f"- {entry.label} on {workload}: no setting keeps the loss finite"
        for workload in scores.workloads
        for entry in scores.tuned
        if math.isinf(scores.loss(workload, entry))
    ]
    for record in scores.records:
        if record["failure"] is not None:
            what = record["failure"]
        elif record["kind"] != "tuned" and None in record["last"]:
            what = f"{record['last'].count(None)} of {len(record['last'])} seeds diverged"
        else:
            continue
        lines.append(f"- {record['optimizer']} on {record['workload']}: {what}")
    return "\n".join(lines) or "none"


def stopped(scores: Scores) -> str:
    """Ratios had all runs been stopped at the best reading of their median.

    What is regained by that is what a method loses by fitting the training data too well.
    """
    lines = _head(
        "geometric mean of ratios", ["stopped at the best reading", "worst", "at the end"]
    )
    for entry in (*scores.tuned, *scores.fixed, *scores.ours, *scores.peers):
        ratios = np.array(
            [scores.stopped(w, entry) / scores.stopped(w, REFERENCE) for w in scores.workloads]
        )
        ratios, final = ratios[~np.isnan(ratios)], scores.ratios(entry)
        cells = map(_ratio, (geometric_mean(ratios), _worst(ratios), geometric_mean(final)))
        lines.append(_row(entry.label, list(cells)))
    return "\n".join(lines)


def robustness(scores: Scores) -> str:
    """Loss under every variation over the median of the variations of the same kind."""
    groups: dict[tuple[str, str, str], dict[str, float]] = {}
    for record in scores.records:
        if record["kind"] != "ours":
            continue
        workload, _, varied = record["workload"].partition("@")
        optimizer, _, constant = record["optimizer"].partition("@")
        loss = scores.loss(record["workload"], Entry("", record["optimizer"], "readout"))
        variation = varied or constant
        kinds = [variation.partition("=")[0]] if variation else ["batch", "init", "loss"]
        if not varied:
            kinds.append("initial_step")
        for kind in set(kinds):
            group = groups.setdefault((workload, optimizer, kind), {})
            group[variation.partition("=")[2] or "default"] = loss
    lines = _head("held-out loss over the median of the line", ["varied", "", "farthest"])
    for (workload, optimizer, kind), losses in groups.items():
        if len(losses) < 2:
            continue
        middle = float(np.median(list(losses.values())))
        cells = ", ".join(f"{value}: {_ratio(loss / middle)}" for value, loss in losses.items())
        farthest = max(max(losses.values()) / middle, middle / min(losses.values()))
        lines.append(_row(f"{workload}, {optimizer}()", [kind, cells, _ratio(farthest)]))
    return "\n".join(lines)


def _by_workload(
    title: str, scores: Scores, entries: Sequence[Entry], cell: Callable[[str, Entry], str]
) -> str:
    lines = _head(title, scores.workloads)
    for entry in entries:
        lines.append(_row(entry.label, [cell(workload, entry) for workload in scores.workloads]))
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[Scores], str]] = {
    "Summary": summary,
    "Workloads": details,
    "Best settings": best_settings,
    "One setting for all": one_setting,
    "Against methods without a learning rate": wins,
    "Steps to target": steps,
    "Stopped early": stopped,
    "Time": seconds,
    "Failures": failures,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report of a suite and draws its pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--suite", choices=SUITES, default="confirmation")
    parser.add_argument("--table", action="store_true", help="only the table of all workloads")
    parser.add_argument(
        "--headline",
        choices=("short", "full"),
        help="only the table of all suites; the README's is short",
    )
    parser.add_argument("--parts", action="store_true", help="only what the parts are worth")
    parser.add_argument("--results", type=pathlib.Path, default=records.RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.headline or options.parts:
        suites = {suite: load(suite, options.results) for suite in HEADLINE_SUITES}
        print(headline(suites, options.headline == "short") if options.headline else parts(suites))
        return 0
    scores = load(options.suite, options.results)
    if not scores.records:
        print(f"no records of {options.suite} in {options.results}", file=sys.stderr)
        return 1
    if options.table:
        print(table(scores))
    elif options.suite.endswith("robustness"):
        print(robustness(scores))
    else:
        for title, section in SECTIONS.items():
            print(f"## {title}\n\n{section(scores)}\n")
        from benchmarks import pictures  # Slow to import, and only needed here.

        for path in pictures.draw(scores, options.results, options.suite):
            print(f"![{path.stem}]({path.name})")
    return 0


def _best_setting(base: str, suites: dict[str, Scores]) -> Entry:
    """Of the settings for all of one base, that with the lowest geometric mean over all suites."""
    entries = [entry for entry in FIXED if entry.optimizer.startswith(f"{base}_")]
    return min(
        entries,
        key=lambda e: geometric_mean(np.concatenate([s.ratios(e) for s in suites.values()])),
    )


def _single_best_peer(scores: Scores) -> Entry | None:
    """The peer with the lowest geometric mean among those that were run on all and never failed."""
    ratios = {peer: scores.ratios(peer) for peer in scores.peers}
    everywhere = len(scores.ratios(REFERENCE))
    means = {peer: geometric_mean(r) for peer, r in ratios.items() if len(r) == everywhere}
    finite = {peer: mean for peer, mean in means.items() if math.isfinite(mean)}
    return min(finite, key=finite.__getitem__) if finite else None


def _worst(ratios: np.ndarray) -> float:
    return float(ratios.max()) if len(ratios) else math.nan


def _median(ratios: np.ndarray) -> float:
    return float(np.median(ratios)) if len(ratios) else math.nan


def _interval(ratios: np.ndarray) -> str:
    low, high = interval(ratios)
    return "–" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _head(first: str, columns: Sequence[str]) -> list[str]:
    return [_row(first, columns), "|---" * (len(columns) + 1) + "|"]


def _row(first: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def _loss(loss: float) -> str:
    return "–" if math.isnan(loss) else f"{loss:.4g}"


def _ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return "–"
    return "∞" if math.isinf(ratio) else f"{ratio:.3f}"


def _fraction(fraction: float) -> str:
    if math.isnan(fraction):
        return "–"
    return "never" if math.isinf(fraction) else f"{fraction:.2f}"


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
