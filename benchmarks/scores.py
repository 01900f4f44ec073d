"""Numbers computed from stored records: ratios, wins, steps to a target."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

Record = dict[str, Any]


class Entry(NamedTuple):
    """A line of the report.

    Attributes:
      label: what a reader sees.
      optimizer: its name in the records.
      result: whether its parameters ("last") or its "readout" are judged; None is the better of
        both on every workload.
      decay: the weight decay, where it is given; None is the best of all that were run.
      rate: the same of the learning rate.
    """

    label: str
    optimizer: str
    result: str | None
    decay: float | None = None
    rate: float | None = None


REFERENCE = Entry("AdamW, cosine, tuned", "adam_cosine", "last")
UNDECAYED = Entry("Adam, cosine, tuned", "adam_cosine", "last", decay=0.0)
AVERAGED = Entry("Adam, constant, averaged, tuned", "adam_constant", "readout")
_TUNED_MUON = Entry("Muon, cosine, tuned", "muon_cosine", "last")
TUNED = (
    REFERENCE,
    UNDECAYED,
    Entry("Adam, constant, tuned", "adam_constant", "last"),
    AVERAGED,
    Entry("SGD, cosine, tuned", "sgd_cosine", "last"),
    Entry("SGD, constant, averaged, tuned", "sgd_constant", "readout"),
    _TUNED_MUON,
)

_ADAM = Entry(
    "Adam, constant, averaged, 0.008 for all", "adam_constant_fixed", "readout", decay=0.0
)
_FOUND, _FOUND_LONG = (
    Entry(f"parabolic_adamw() at {rate} for all", f"adamw_found_{rate}", "readout")
    for rate in (0.016, 0.032)
)
# One setting for all problems, the best on the development suite; also the decay that is best there
# on networks that overfit, and with Adam ruins the physics-informed one.
FIXED = (
    Entry("Adam, cosine, 0.016 for all", "adam_cosine_fixed", "last", decay=0.0),
    Entry("AdamW, cosine, 0.016, 0.1 for all", "adam_cosine_fixed", "last", decay=0.1),
    _ADAM,
    Entry("AdamW, constant, averaged, 0.008, 0.1 for all", "adam_constant_fixed", "readout", 0.1),
    Entry("Muon, cosine, 0.016, 0.01 for all", "muon_cosine_fixed", "last", decay=0.01),
    Entry("Muon, cosine, 0.016, 0.1 for all", "muon_cosine_fixed", "last", decay=0.1),
    _FOUND,
    _FOUND_LONG,
)

# What is compared with what to tell what a part of the method is worth.
_RULE, _DIRECTION, _MUON = (
    Entry(f"{name}()", name, "readout", decay=0.0)
    for name in ("parabolic_adam", "parabolic_adamw", "parabolic_muon")
)
PARTS = (
    ("`parabolic_adam()`, to Adam averaged at 0.008 for all", _RULE, _ADAM),
    ("the same, to Adam averaged at the best rate for each", _RULE, AVERAGED),
    ("`parabolic_adamw()`, to itself at 0.016 for all", _DIRECTION, _FOUND),
    ("`parabolic_adamw()`, to itself at 0.032 for all", _DIRECTION, _FOUND_LONG),
    ("`parabolic_adamw()`, to `parabolic_adam()`", _DIRECTION, _RULE),
    ("`parabolic_muon()`, to Muon with cosine, tuned for each", _MUON, _TUNED_MUON),
)

# Ours that are shown where not all can be, in the README and in pictures.
HEADLINE = (
    "parabolic_adam()",
    "parabolic_adamw()",
    "parabolic_adamw(weight_decay=0.1)",
    "parabolic_sgd()",
    "parabolic_muon()",
    "parabolic_muon(weight_decay=0.1)",
)


class Scores:
    """The records of a suite, by workload and entry; tuned methods at their best setting."""

    def __init__(self, records: Iterable[Record]):
        self.records = list(records)
        self.workloads = list(dict.fromkeys(record["workload"] for record in self.records))
        kinds = {record["optimizer"]: record["kind"] for record in self.records}
        ours = [name for name, kind in kinds.items() if kind == "ours"]
        self.ours = [Entry(f"{name}()", name, result_of_ours(name), decay=0.0) for name in ours]
        self.ours_decayed = [
            entry._replace(label=label, decay=decay)
            for entry in self.ours
            for label, decay in self._decayed(entry.optimizer)
        ]
        self.ours_last = [
            entry._replace(label=f"{entry.label}, parameters", result="last")
            for entry in self.ours
            if entry.result == "readout"
        ]
        self.tuned = [entry for entry in TUNED if entry.optimizer in kinds]
        self.fixed = [entry for entry in FIXED if entry.optimizer in kinds]
        self.peers = [Entry(name, name, None) for name, kind in kinds.items() if kind == "peer"]
        self.peers_last = [
            entry._replace(label=f"{entry.label}, parameters", result="last")
            for entry in self.peers
            if self._has_readout(entry.optimizer)
        ]

    @property
    def entries(self) -> list[Entry]:
        return [
            *self.tuned,
            *self.fixed,
            *self.ours,
            *self.ours_decayed,
            *self.ours_last,
            *self.peers,
            *self.peers_last,
        ]

    @property
    def headline(self) -> list[Entry]:
        """Those of ours that are in HEADLINE, in its order."""
        labelled = {entry.label: entry for entry in (*self.ours, *self.ours_decayed)}
        return [labelled[label] for label in HEADLINE if label in labelled]

    def settings(self, workload: str, optimizer: str) -> list[Record]:
        """All records of an optimizer on a workload."""
        return [
            record
            for record in self.records
            if (record["workload"], record["optimizer"]) == (workload, optimizer)
        ]

    def best(self, workload: str, entry: Entry) -> Record | None:
        """The record with the lowest median; of untuned methods there is only one."""
        candidates = self._candidates(workload, entry)
        if not candidates:
            return None
        return min(candidates, key=lambda record: median(record, entry.result))

    def loss(self, workload: str, entry: Entry) -> float:
        """Median over the seeds; infinity for a failure, NaN where nothing was run."""
        record = self.best(workload, entry)
        return math.nan if record is None else median(record, entry.result)

    def stopped(self, workload: str, entry: Entry) -> float:
        """The lowest reading of the median curves of all its settings, of which a tuned has many.

        Infinity for settings that failed, at whatever step; NaN where nothing was run.
        """
        lowest = [
            min((loss for loss in record["curves"][result] if loss is not None), default=math.inf)
            if record["failure"] is None
            else math.inf
            for record in self._candidates(workload, entry)
            for result in ([entry.result] if entry.result else results_of(record))
        ]
        return min(lowest, default=math.nan)

    def ratio(self, workload: str, entry: Entry, to: Entry = REFERENCE) -> float:
        """Loss over that of another entry."""
        return self.loss(workload, entry) / self.loss(workload, to)

    def ratios(self, entry: Entry, to: Entry = REFERENCE) -> np.ndarray:
        """Over the workloads that were run with both."""
        ratios = np.array([self.ratio(workload, entry, to) for workload in self.workloads])
        return ratios[~np.isnan(ratios)]

    def wins(self, entry: Entry, against: Sequence[Entry]) -> float:
        """Fraction of pairs of workload and seed in which the loss is below all the others'."""
        won = []
        for workload in self.workloads:
            record = self.best(workload, entry)
            others = [self.best(workload, other) for other in against]
            if record is None or any(other is None for other in others):
                continue
            own = by_seed(record, entry.result)
            rivals = [
                by_seed(other, rival.result)
                for other, rival in zip(others, against, strict=True)
                if other is not None
            ]
            won += [
                loss < min(rival.get(seed, math.nan) for rival in rivals)
                for seed, loss in own.items()
                if all(seed in rival for rival in rivals)
            ]
        return float(np.mean(won)) if won else math.nan

    def steps_to_target(self, workload: str, entry: Entry) -> float:
        """Fraction of the run until the median curve reaches the reference's final loss.

        Infinity where it never does, NaN where there is no reference or no run.
        """
        record, target = self.best(workload, entry), self.loss(workload, REFERENCE)
        if record is None or math.isnan(target):
            return math.nan
        if record["failure"] is not None:
            return math.inf
        curve = entry.result or min(results_of(record), key=lambda each: median(record, each))
        for number, loss in enumerate(record["curves"][curve], 1):
            if loss is not None and loss <= target:
                return number * record["every"] / record["steps"]
        return math.inf

    def profile(self, entries: Sequence[Entry]) -> dict[Entry, np.ndarray]:
        """Ratios to the best of the entries, sorted, over workloads that all were run on."""
        if not entries:
            return {}
        losses = np.array([[self.loss(w, entry) for entry in entries] for w in self.workloads])
        losses = losses[~np.isnan(losses).any(1)]
        ratios = losses / losses.min(1, keepdims=True)
        return {entry: np.sort(ratios[:, number]) for number, entry in enumerate(entries)}

    def _candidates(self, workload: str, entry: Entry) -> list[Record]:
        return [
            record
            for record in self.settings(workload, entry.optimizer)
            if entry.decay in (None, _decay(record))
            and entry.rate in (None, record["setting"].get("rate"))
        ]

    def _decayed(self, optimizer: str) -> Iterator[tuple[str, float | None]]:
        """Labels and weight decays: those run on most of its problems, and the best of all."""
        decays = [
            {_decay(record) for record in self.settings(workload, optimizer)}
            for workload in self.workloads
        ]
        decays = [ones for ones in decays if ones]
        if any(max(ones) for ones in decays):
            for decay in sorted(set.union(*decays) - {0.0}):
                if 3 * sum(decay in ones for ones in decays) >= 2 * len(decays):
                    yield f"{optimizer}(weight_decay={decay:g})", decay
            yield f"{optimizer}, decay tuned", None

    def _has_readout(self, optimizer: str) -> bool:
        return any(
            {"last", "readout"} <= set(results_of(record))
            for record in self.records
            if record["optimizer"] == optimizer
        )


def _decay(record: Record) -> float:
    # 0 stands for the default, which may be a decay that is found.
    return record["setting"].get("weight_decay", 0.0)


def result_of_ours(name: str) -> str:
    """With a decay at the end the parameters are the result, otherwise what is read out."""
    return "last" if name.endswith("+decay") else "readout"


def results_of(record: Record) -> tuple[str, ...]:
    """What a peer is judged by: its parameters, and what it reads out."""
    return ("last", "readout") if "readout" in record.get("curves", ()) else ("last",)


def by_seed(record: Record, result: str | None) -> dict[int, float]:
    """Final losses; infinity for those that are not finite."""
    if record["failure"] is not None:
        return dict.fromkeys(record["seeds"], math.inf)
    if result is None:
        result = min(results_of(record), key=lambda each: median(record, each))
    return {
        seed: math.inf if loss is None else loss
        for seed, loss in zip(record["seeds"], record[result], strict=True)
    }


def median(record: Record, result: str | None) -> float:
    """Median over the seeds, infinity where most of them failed."""
    return float(np.median(list(by_seed(record, result).values())))


def geometric_mean(ratios: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(ratios)))) if len(ratios) else math.nan


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Where the geometric mean is with 95 % confidence, had other problems of the kind been drawn.

    From percentiles of bootstrap samples of the workloads, which are few, and of which several
    share their data and are counted as independent; so it is rather too narrow.
    """
    if len(ratios) < 2 or not np.all(np.isfinite(ratios)):
        return math.nan, math.nan
    drawn = scipy.stats.bootstrap(
        (np.log(ratios),), np.mean, method="percentile", rng=np.random.default_rng(0)
    )
    low, high = np.exp(drawn.confidence_interval)
    return float(low), float(high)
