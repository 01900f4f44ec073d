"""Trains workloads with optimizers and stores what came out: ``python -m benchmarks.run``.

Results are appended to ``benchmarks/results/SUITE.jsonl``. What is stored there already is
not run again, so that an interrupted run is resumed by the same command; this package's
optimizers are run again after every change of its code. The tables and pictures are made of
the records by ``python -m benchmarks.report``.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import optimizers, records, workloads
from benchmarks.data import MissingDataError
from benchmarks.optimizers import Optimizer, Setting
from benchmarks.training import Trainer
from benchmarks.tuning import climb, tune

_ALL = optimizers.names("ours", "tuned", "fixed", "peer")
_MAIN = ("parabolic_adam", "parabolic_sgd")
_ROBUST = (*_MAIN, "parabolic_adamw")
_LONG = (*_MAIN, "parabolic_adamw", "parabolic_muon", "adam_constant", "adam_cosine", "prodigy")
_NO_DECAY = tuple(f"{name}@weight_decay=0" for name in ("parabolic_adamw", "parabolic_muon"))
_STEPS = tuple(f"{name}@initial_step={step}" for name in _ROBUST for step in
               ("1e-8", "1e-4", "1e-2"))  # fmt: skip


class Suite(NamedTuple):
    """Which workloads are run with which optimizers; seeds of one set are in no other.

    Workloads that are scattered get three times as many seeds.
    """

    optimizers: tuple[str, ...]
    first_seed: int
    seeds: int
    scattered: tuple[str, ...] = ()

    def seeds_of(self, workload: str, number: int | None = None) -> list[int]:
        number = number or (3 if workload in self.scattered else 1) * self.seeds
        return list(range(self.first_seed, self.first_seed + number))


SUITES = {
    "smoke": Suite((*_MAIN, "adam_constant", "adam_cosine", "prodigy"), 0, 1),
    "development": Suite(_ALL, 0, 3),
    "development-short": Suite(_ALL, 0, 3),
    "development-tables": Suite(_ALL, 0, 5),
    "development-robustness": Suite((*_ROBUST, *_STEPS), 0, 9),
    "development-finetuning": Suite((*_ALL, *_NO_DECAY), 0, 5),
    "development-long": Suite(_LONG, 0, 1),
    "development-moving": Suite(_ALL, 0, 3),
    "confirmation": Suite(_ALL, 1000, 3, workloads.SCATTERED),
    "confirmation-finetuning": Suite((*_ALL, *_NO_DECAY), 1000, 5),
    "confirmation-long": Suite(_LONG, 1000, 1),
    "confirmation-moving": Suite(_ALL, 1000, 3),
    "confirmation-robustness": Suite((*_ROBUST, *_STEPS), 1000, 9),
    "audit": Suite(_ALL, 3000, 5),
    "audit-tables": Suite(_ALL, 4000, 5),
    "accelerator": Suite((*_ROBUST, "parabolic_muon", "adam_constant", "adam_cosine"), 2000, 3),
}


class Runner:
    """Runs settings of one workload, unless their records are there."""

    def __init__(self, trainer: Trainer, path: pathlib.Path, seeds: list[int], timing, progress):
        self._trainer, self._path, self._seeds = trainer, path, seeds
        self._timing, self._progress = timing, progress
        self._stored = records.read(path)

    def run(self, optimizer: Optimizer) -> None:
        """All settings of an optimizer: one, or what the tuner asks for."""
        setting = dict(optimizer.setting)

        def measure(**chosen: float) -> dict[str, float]:
            return self.measure(optimizer, {**setting, **chosen})

        if optimizer.rates:
            setting["rate"] = tune(
                optimizer.rates, optimizer.results, lambda rate: measure(rate=rate)
            )
        else:
            measure()
        if optimizer.decays:
            result = optimizer.results[0]
            climb(optimizer.decays, lambda decay: measure(weight_decay=decay)[result])

    def measure(self, optimizer: Optimizer, setting: Setting) -> dict[str, float]:
        """Median final losses by name, infinity for failures; of the record, if there is one."""
        workload = self._trainer.workload
        key = records.key(workload.name, optimizer.name, setting)
        record = self._stored.get(key)
        if record is None or not records.is_done(record, workload, optimizer, self._seeds):
            record = self._train(optimizer, setting)
            records.append(self._path, record)
            self._stored[key] = record
            self._progress.console.print(_line(record), highlight=False, soft_wrap=True)
        return {name: median(record, name) for name in ("last", "readout")}

    def _train(self, optimizer: Optimizer, setting: Setting) -> records.Record:
        trainer = self._trainer
        bar = self._progress.add_task(
            optimizer.name, total=trainer.workload.steps * len(self._seeds)
        )
        advanced = functools.partial(self._progress.advance, bar)
        runs, failure = [], None
        with self._timing() as timed:
            try:
                runs = [trainer.run(optimizer, setting, seed, advanced) for seed in self._seeds]
            except ModuleNotFoundError:
                raise
            except Exception as error:
                # A method that cannot be run here is a result; the others go on.
                failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self._progress.remove_task(bar)
        return records.of_runs(
            trainer.workload,
            optimizer,
            setting,
            self._seeds,
            runs,
            timed=timed,
            failure=failure,
        )


def median(record: records.Record, name: str) -> float:
    """Median over the seeds, infinity where most of them failed."""
    if record["failure"] is not None:
        return math.inf
    return float(np.median([math.inf if loss is None else loss for loss in record[name]]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a suite; returns 0, 1 if packages or data were missing, 130 if interrupted."""
    options = _parse(arguments)
    suite, missing = SUITES[options.suite], []
    path = options.results / f"{options.suite}.jsonl"
    console = Console()
    pairs = _pairs(options)
    try:
        with records.alone(options.results) as timing, _progress(console) as progress:
            total = sum(_runs(optimizers.find(optimizer)) for _, optimizer in pairs)
            everything = progress.add_task("all", total=total)
            runner, name = None, None
            for workload, optimizer in pairs:
                if workload != name:
                    name, runner = workload, None
                    try:
                        trainer = Trainer(workloads.load(workload))
                        seeds = suite.seeds_of(workload, options.seeds)
                        runner = Runner(trainer, path, seeds, timing, progress)
                    except (MissingDataError, ModuleNotFoundError) as error:
                        missing.append(workload)
                        console.print(f"{workload}: {error}", highlight=False, soft_wrap=True)
                if runner is not None:
                    try:
                        runner.run(optimizers.find(optimizer))
                    except ModuleNotFoundError as error:
                        missing.append(optimizer)
                        console.print(f"{optimizer}: {error}", highlight=False, soft_wrap=True)
                progress.advance(everything, _runs(optimizers.find(optimizer)))
    except KeyboardInterrupt:
        console.print("Interrupted: the same command goes on from here.")
        return 130
    console.print(f"Records  {path}", highlight=False, soft_wrap=True)
    return 1 if missing else 0


def _runs(optimizer: Optimizer) -> int:
    """How many settings to expect, for the time left: the tuner adds about two rates.

    What has no rates runs at its default.
    """
    extensions = 2 if optimizer.rates else 1
    return len(optimizer.rates) + len(optimizer.decays) + extensions


def _pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Every workload with every optimizer; a suite varies one of them at a time."""
    named = bool(options.workloads and options.optimizers)
    return [
        (workload, optimizer)
        for workload in options.workloads or workloads.SUITES[options.suite]
        for optimizer in options.optimizers or SUITES[options.suite].optimizers
        if named or not ("@" in workload and "@" in optimizer)
    ]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        # In a file or a pipe there is one line per record instead.
        disable=not console.is_terminal,
    )


def _line(record: records.Record) -> str:
    setting = " ".join(f"{name}={value:g}" for name, value in record["setting"].items())
    result = record["failure"] or " ".join(
        f"{name} {median(record, name):.4g}" for name in ("last", "readout")
    )
    return f"{record['workload']:28} {record['optimizer']:22} {result}  {setting}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=str(__doc__).partition("\n")[0]
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="smoke", help="what to run (default: smoke)")
    add(
        "--workloads",
        nargs="+",
        metavar="NAME",
        help="some of the suite's; any may be varied, as in digits_mlp@batch=256@loss=1e3",
    )
    add(
        "--optimizers",
        nargs="+",
        metavar="NAME",
        help="some of the known; ours take constants, as in parabolic_sgd@momentum=0.95",
    )
    add("--seeds", type=int, metavar="N", help="how many (default: that of the suite)")
    add("--results", type=pathlib.Path, default=records.RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    for name in options.optimizers or ():
        try:
            optimizers.find(name)
        except ValueError as error:
            parser.error(str(error))
    known = dict.fromkeys(workloads.parse(name)[0] for name in workloads.SUITES[options.suite])
    for name in options.workloads or ():
        try:
            base, _ = workloads.parse(name)
        except ValueError as error:
            parser.error(str(error))
        if base not in known:
            parser.error(f"{base!r} is not in {options.suite}, which has {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
