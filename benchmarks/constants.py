"""How much each constant of ``parabolic_adamw()`` matters: halved, doubled, and without effect.

``python -m benchmarks.constants`` trains the development problems with one of them changed at a
time and stores the held-out losses in ``results/constants.json``; what is stored is not run again.
``--table`` prints losses over those with the constants as they are. Constants are traced, so a
problem is compiled once for all of them.
"""

import argparse
import contextlib
import inspect
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

import parabolic_optax as po
from benchmarks import workloads
from benchmarks.optimizers import Optimizer, Setting
from benchmarks.scores import geometric_mean
from benchmarks.training import Trainer
from parabolic_optax import _age, _decay, _parabolic, _steps
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results" / "constants.json"
PROBLEMS = tuple(
    name
    for suite in ("development", "development-short", "development-tables")
    for name in workloads.SUITES[suite]
)
FACTORS = {"halved": 0.5, "doubled": 2.0}
OFF = "off"


class Constant(NamedTuple):
    """A number that the method contains.

    Attributes:
      where: the link that takes it as an argument, or the module that holds it.
      what: it is, in a few words.
      off: the value at which it does nothing, or None.
      most: that makes sense.
    """

    where: Any
    what: str
    off: float | None = None
    most: float = math.inf


_FOR_EVER = 1e6
# In the order in which a step uses them. The last word is the name in the code.
CONSTANTS = {
    "anchor_power": Constant(po.track_displacement, "power of the mean that is the origin"),
    "tail_power": Constant(po.track_displacement, "power of the mean that is read out"),
    "tail_share": Constant(po.track_displacement, "share of that in the displacement", 0.0, 1.0),
    "_DENSE": Constant(_age, "half the steps until every third is sampled", _FOR_EVER),
    "_LEAST": Constant(_age, "steps of which none is forgotten", _FOR_EVER),
    "_FORGETS": Constant(_age, "steps forgotten for one where the tail lags behind"),
    "_MEMORY": Constant(_age, "power of the mean that tells"),
    "strength": Constant(po.decay_outward, "largest outward decay", 0.0),
    "memory": Constant(po.decay_outward, "power of its means"),
    "_DEAD": Constant(_decay, "signal below which there is none", 0.0),
    "_MARGIN": Constant(_decay, "growth of weights that it cannot hold, less than 1 by"),
    "_GRACE": Constant(_decay, "samples until weights may shrink like 1/t", 0.0),
    "inward strength": Constant(po.decay_inward, "inward decay", 0.0),
    "_START": Constant(_decay, "steps until it fades", _FOR_EVER),
    "_EARLY": Constant(_decay, "samples in which either may be cut", 0.0),
    "_CUT": Constant(_decay, "share that a sample may cut", 0.0),
    "slope memory": Constant(po.estimate_uncentred, "power of the means of slopes"),
    "pooling": Constant(po.estimate_uncentred, "share of the whole in every signal", 0.0, 1.0),
    "_LEAST_NORM": Constant(_steps, "least norm of a matrix at the start", 0.0),
    "_REACH": Constant(_steps, "relative motion that ends the search"),
    "_JUMP": Constant(_steps, "largest factor between its steps", _FOR_EVER),
    "growth": Constant(po.step_multiplicative, "power of t at which steps may grow", _FOR_EVER),
    "_WAITING_RATE": Constant(_parabolic, "largest change of a step"),
    "decline": Constant(po.step_multiplicative, "power of t at which they may fall"),
    "_LONG_RUN": Constant(_steps, "steps until that is halved", _FOR_EVER),
    "brake": Constant(po.step_multiplicative, "strength of the brake", 0.0),
    "_ALARM": Constant(_steps, "slope, in usual ones, that starts it"),
    "_MOST_OWED": Constant(_steps, "largest logarithm that it takes", 0.0),
    "_TIGHTENS": Constant(_steps, "steps until the limit falls", _FOR_EVER),
    "_TIGHT": Constant(_steps, "what it falls to"),
    "_BEYOND": Constant(_steps, "steps too long that leave it open", 0.0),
    "_SETTLED": Constant(_steps, "reliable rise that this takes", -2.0),
}


def value(name: str) -> float:
    """The constant as it is in the package."""
    where = CONSTANTS[name].where
    if inspect.ismodule(where):
        return getattr(where, name)
    return inspect.signature(where).parameters[name.split()[-1]].default


def made(setting: Setting) -> optax.GradientTransformationExtraArgs:
    """``parabolic_adamw()`` with other constants, which may be traced."""

    def of(link: Any) -> dict[str, Any]:
        return {n.split()[-1]: setting[n] for n, c in CONSTANTS.items() if c.where is link}

    links = optax.chain(
        po.track_displacement(
            po.cautious(optax.scale_by_adam()), radial=True, **of(po.track_displacement)
        ),
        po.decay_outward(**of(po.decay_outward)),
        po.decay_inward(**of(po.decay_inward)),
        po.estimate_uncentred(**of(po.estimate_uncentred)),
        po.flip_saddles(),
        po.step_multiplicative(
            max_rate=setting["_WAITING_RATE"],
            limit=_parabolic._LIMIT,
            **of(po.step_multiplicative),
        ),
    )

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **extra: Any) -> Any:
            with replaced(setting):
                return function(*arguments, **extra)

        return run

    return optax.GradientTransformationExtraArgs(within(links.init), within(links.update))


@contextlib.contextmanager
def replaced(setting: Setting) -> Iterator[None]:
    """The constants of modules, while what uses them is traced."""
    with contextlib.ExitStack() as stack:
        for name, constant in CONSTANTS.items():
            if inspect.ismodule(constant.where):
                # Counts are whole numbers.
                kind = jnp.asarray(value(name)).dtype
                new = jnp.asarray(setting[name]).astype(kind)
                stack.enter_context(mock.patch.object(constant.where, name, new))
        yield


OPTIMIZER = Optimizer(
    "parabolic_adamw", "ours", lambda setting, steps: made(setting), readout=po.eval_params
)


def settings() -> Iterator[tuple[str, dict[str, float]]]:
    """The constants as they are, called "", and with one of them changed at a time."""
    usual = {name: float(value(name)) for name in CONSTANTS}
    yield "", usual
    for name, constant in CONSTANTS.items():
        for how, factor in FACTORS.items():
            changed = min(factor * usual[name], constant.most)
            if changed != usual[name]:
                yield f"{name} {how}", {**usual, name: changed}
        if constant.off is not None:
            yield f"{name} {OFF}", {**usual, name: constant.off}


Losses = dict[str, list[float | None]]


def measure(problem: str, seeds: int, known: Losses) -> None:
    """Adds the held-out losses of every seed, by what was changed; None where one is no number."""
    missing = [(name, setting) for name, setting in settings() if name not in known]
    if not missing:
        return
    trainer = Trainer(workloads.load(problem))
    for name, setting in track(missing, description=problem):
        runs = [trainer.run(OPTIMIZER, setting, seed) for seed in range(seeds)]
        final = [float(run.readout[-1]) for run in runs]
        known[name] = [float(f"{loss:.5g}") if math.isfinite(loss) else None for loss in final]


def ratios(stored: dict[str, Losses], name: str) -> dict[str, float]:
    """Loss with a constant changed over that with none, by problem; means of logarithms."""

    def mean(losses: list[float | None]) -> float:
        return float(np.mean([math.inf if loss is None else math.log(loss) for loss in losses]))

    return {
        problem: math.exp(mean(losses[name]) - mean(losses[""]))
        for problem, losses in stored.items()
        if name in losses
    }


def table(stored: dict[str, Losses], values: dict[str, float]) -> str:
    """Markdown: a line per constant; geometric means, and the problem that is moved most.

    The values are those that it had, and that were changed; others were not there yet.
    """
    columns = (*FACTORS, OFF)
    lines = [f"| constant | value | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name, constant in CONSTANTS.items():
        if name not in values:
            continue
        cells = [f"{constant.what} (`{name.split()[-1].strip('_')}`)", f"{values[name]:.3g}"]
        for how in columns:
            each = ratios(stored, f"{name} {how}")
            if not each:
                cells.append("–")
                continue
            mean = geometric_mean(np.array(list(each.values())))
            problem = max(each, key=lambda p: abs(math.log(each[p])))
            cells.append(f"{mean:.3f}, {problem} {each[problem]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.constants", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is stored, run nothing")
    options = parser.parse_args(arguments)
    stored = json.loads(options.results.read_text("utf-8")) if options.results.exists() else {}
    problems = stored.get("problems", {})
    present = {name: float(value(name)) for name in CONSTANTS}
    values = stored.get("values", present)
    if values != present and not options.table:
        parser.error(f"{options.results} is of other constants: give another --results.")
    for problem in [] if options.table else options.problems:
        measure(problem, options.seeds, problems.setdefault(problem, {}))
        record = {"environment": environment(), "seeds": options.seeds, "values": values}
        options.results.write_text(json.dumps(record | {"problems": problems}) + "\n", "utf-8")
    print(table(problems, values))


if __name__ == "__main__":
    main()
