"""What a step costs: time, memory traffic, memory and compile time, beside other optimizers.

``python -m benchmarks.overhead`` measures updates alone and whole training steps, and stores
them in ``results/overhead.json``; ``--table`` prints what is stored. Nothing in it depends on
the device, so that the same command serves a CPU and a GPU.

All methods of a case take turns in one process, and times are compared within a round, since
the load of a shared machine changes from second to second. Traffic, arithmetic and memory are
the compiler's own figures for the compiled program and do not depend on the load. With
``--memory`` the largest memory of a process that only updates is measured instead.
"""

import argparse
import itertools
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import parabolic_optax as po
from benchmarks import layers
from parabolic_optax._demo.report import environment

RESULTS = pathlib.Path(__file__).parent / "results" / "overhead.json"
REFERENCE = "adamw"
# Parameters plus gradients, the least that an update can do.
ADDITION = "addition"
METHODS: dict[str, Callable[[], optax.GradientTransformation]] = {
    ADDITION: optax.identity,
    REFERENCE: lambda: optax.adamw(1e-3),
    "sgd": lambda: optax.sgd(1e-3, 0.9),
    "parabolic_adam": po.parabolic_adam,
    "parabolic_adamw": po.parabolic_adamw,
    "parabolic_adam(tail_power=None)": lambda: po.parabolic_adam(tail_power=None),
    "parabolic_adam(mean_dtype=bfloat16)": lambda: po.parabolic_adam(mean_dtype="bfloat16"),
    "parabolic_sgd": po.parabolic_sgd,
    "parabolic_sgd(tail_power=None)": lambda: po.parabolic_sgd(tail_power=None),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw,
    "prodigy": optax.contrib.prodigy,
    "muon": lambda: optax.contrib.muon(1e-3),
    "lbfgs": optax.lbfgs,
}
# As the run goes on ours samples ever more rarely, here one step in nine.
LATE = " after 10,000 steps"
METHODS |= {m + LATE: METHODS[m] for m in ("parabolic_adam", "parabolic_adamw", "parabolic_sgd")}
# Seconds of a measurement. Steps faster than that are taken in a row.
SHORTEST = 0.02
# Steps in a row, or a multiple: late ones that include one sample. And on accelerators all, because
# the host of a training loop prepares the next steps while they work.
IN_A_ROW = 9
# Compiling these for thousands of leaves takes many minutes.
NOT_FOR_MANY_LEAVES = ("muon", "lbfgs")


class Case(NamedTuple):
    """What is measured.

    Attributes:
      name: unique, also in the results.
      params: the parameters to start from.
      data: the second argument of `loss`, or the gradients where there is none.
      loss: of the training step; None for an update alone.
    """

    name: str
    params: Any
    data: Any
    loss: Callable[[Any, Any], jax.Array] | None = None


def update_alone(size: float, leaves: int) -> Case:
    side = math.isqrt(int(size) // leaves)
    # By NumPy, and waiting for every leaf: what is needed to make them would else be the peak of
    # memory.
    draw = np.random.default_rng(0).standard_normal
    params = {f"leaf{n}": jnp.array(0.02 * draw((side, side), "float32")) for n in range(leaves)}
    grads = jax.tree.map(lambda p: jax.block_until_ready(0.1 * p + 1e-4), params)
    return Case(f"update, {int(size):,} in {leaves:,} leaves", params, grads)


def transformer(width: int = 256, blocks: int = 2, rows: int = 16, window: int = 64) -> Case:
    keys = jax.random.split(jax.random.key(0), blocks + 3)
    params: dict[str, Any] = {f"block{n}": layers.block_init(keys[n], width) for n in range(blocks)}
    params["characters"] = 0.02 * jax.random.normal(keys[-1], (256, width))
    params["readout"] = layers.dense_init(keys[-2], width, 256, layers.lecun)
    text = jax.random.randint(keys[-3], (rows, window + 1), 0, 256)

    def loss(params, text):
        x = params["characters"][text[:, :-1]]
        for number in range(blocks):
            x = layers.block(params[f"block{number}"], x, heads=4, causal=True)
        return layers.cross_entropy(layers.dense(params["readout"], x), text[:, 1:])

    return Case(f"transformer, {blocks} blocks of width {width}", params, text, loss)


def large_transformer() -> Case:
    """The blocks of GPT-2 small, for accelerators only."""
    return transformer(width=768, blocks=12, window=256)


def cnn(channels: Sequence[int] = (3, 32, 64, 128), side: int = 32, rows: int = 64) -> Case:
    keys = jax.random.split(jax.random.key(0), len(channels) + 2)
    params = {
        f"conv{n}": layers.conv_init(keys[n], 3, fan_in, fan_out)
        for n, (fan_in, fan_out) in enumerate(itertools.pairwise(channels))
    }
    params["dense"] = layers.dense_init(keys[-1], channels[-1], 10)
    images = jax.random.normal(keys[-2], (rows, side, side, channels[0]))
    labels = jax.random.randint(keys[-3], (rows,), 0, 10)

    def loss(params, data):
        x, labels = data
        for number in range(len(channels) - 1):
            x = jax.nn.relu(layers.conv(params[f"conv{number}"], x, stride=2))
        return layers.cross_entropy(layers.dense(params["dense"], x.mean((1, 2))), labels)

    return Case("cnn", params, (images, labels), loss)


def made(method: str, with_loss: bool) -> optax.GradientTransformationExtraArgs:
    if method == "lbfgs" and not with_loss:
        # Its line search needs a loss.
        return optax.lbfgs(1e-3, linesearch=None)
    return optax.with_extra_args_support(METHODS[method]())


class Program:
    """One method on one case: the compiled step, what the compiler says of it, and times."""

    def __init__(self, case: Case, method: str):
        optimizer = made(method, with_loss=case.loss is not None)
        self.seconds: list[float] = []
        self.steps = 1
        self._traces = 0

        def step(params, state, data):
            self._traces += 1
            grads, extra = data, {}
            if (loss := case.loss) is not None:
                value, grads = jax.value_and_grad(loss)(params, data)
                extra = {"value": value, "grad": grads, "value_fn": lambda p: loss(p, data)}
            updates, state = optimizer.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.copy, case.params)
        state = jax.jit(optimizer.init)(params)
        if method.endswith(LATE):
            # A copy, because a state that holds an array twice cannot be donated.
            late = optax.tree_utils.tree_set(state, count=jnp.int32(10_000))
            state = jax.tree.map(jnp.copy, late)
        self._arguments: Any = (params, state)
        self._data = case.data
        jitted = jax.jit(step, donate_argnums=(0, 1))
        start = time.perf_counter()
        self._compiled = jitted.lower(*self._arguments, self._data).compile()
        compile_seconds = time.perf_counter() - start
        sizes = [_bytes(tree) for tree in self._arguments]
        self.call()
        # Another trace, and a second compilation for every user, where a type has changed.
        jitted.trace(*self._arguments, self._data)
        self.call()
        self.steps = max(1, round(SHORTEST / self.seconds[-1]))
        if method.endswith(LATE) or jax.default_backend() != "cpu":
            self.steps = IN_A_ROW * math.ceil(self.steps / IN_A_ROW)
        self.seconds.clear()

        memory: Any = self._compiled.memory_analysis()
        cost: Any = self._compiled.cost_analysis()
        self.facts = {
            "parameters": sum(p.size for p in jax.tree.leaves(params)),
            "state_buffers": sizes[1] / sizes[0],
            # Every argument read once, every result written once.
            "bytes_floor": memory.argument_size_in_bytes + memory.output_size_in_bytes,
            "bytes_accessed": cost["bytes accessed"],
            "flops": cost["flops"],
            "bytes_temporary": memory.temp_size_in_bytes,
            "compile_seconds": compile_seconds,
            "traces": self._traces,
        }

    @property
    def text(self) -> str:
        """The compiled program."""
        return self._compiled.as_text() or ""

    def call(self) -> None:
        """Some steps in a row, as a training loop does them: it does not wait for each."""
        start = time.perf_counter()
        for _ in range(self.steps):
            self._arguments = self._compiled(*self._arguments, self._data)
        jax.block_until_ready(self._arguments)
        self.seconds.append((time.perf_counter() - start) / self.steps)


def measure(case: Case, methods: Sequence[str], seconds: float, rounds: int = 200) -> dict:
    """The figures of each method; each takes part until it has run for so many seconds."""
    programs = {method: Program(case, method) for method in (REFERENCE, ADDITION)}
    programs |= {m: Program(case, m) for m in methods if m not in programs}
    for _ in range(rounds):
        running = [p for p in programs.values() if sum(p.seconds) * p.steps < seconds]
        if not set(running) - {programs[REFERENCE], programs[ADDITION]}:
            break
        # The two that others are compared with never sit out a round.
        for program in {programs[REFERENCE]: 0, programs[ADDITION]: 0} | dict.fromkeys(running):
            program.call()
    reference = np.array(programs[REFERENCE].seconds)
    results = {}
    for method, program in programs.items():
        own = np.array(program.seconds)
        results[method] = program.facts | {
            "rounds": len(own),
            "milliseconds": _quartiles(1e3 * own),
            "ratio": _quartiles(own / reference[: len(own)]),
        }
    return results


def peak_memory(method: str, size: float, steps: int = 10) -> int:
    """Largest memory of this process in bytes, after so many updates of fresh parameters.

    Without a method it only makes the parameters and the gradients.
    """
    case = update_alone(size, 20)
    params, grads = case.params, case.data
    del case
    jax.block_until_ready(grads)
    if method:
        optimizer = made(method, with_loss=False)

        def step(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        jitted = jax.jit(step, donate_argnums=(0, 1))
        state = jax.jit(optimizer.init)(params)
        for _ in range(steps):
            params, state = jitted(params, state, grads)
        jax.block_until_ready(params)
    # Linux only. What getrusage says begins with the peak of the process that started this one.
    status = pathlib.Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory(method: str, size: float) -> float:
    """Bytes per parameter that a process needs at its peak, parameters and gradients included.

    What does not grow with the parameters, such as the compiler, is the same in a process with
    a tenth of them, and is taken off. Medians of three.
    """
    command = [sys.executable, "-m", "benchmarks.overhead", "--peak", method, "--size"]
    peaks = [
        int(subprocess.run([*command, str(s)], check=True, capture_output=True, text=True).stdout)
        for s in 3 * [size, size / 10.0]
    ]
    return float(np.median(peaks[::2]) - np.median(peaks[1::2])) / (0.9 * size)


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _quartiles(values: np.ndarray) -> list[float]:
    """Median, first and third quartile."""
    return [float(f"{value:.4g}") for value in np.percentile(values, (50, 25, 75))]


def table(device: str, cases: dict[str, dict[str, dict]]) -> str:
    """Markdown: a table per case, and how times grow with the number of parameters."""
    blocks = [f"## {device}"]
    for name, methods in cases.items():
        # Bytes of the floor over time; late steps move less, whole steps do other work. The best
        # is not always the addition's: a fast GPU waits for the host in so short a step.
        bandwidth = {
            method: r["bytes_floor"] / r["milliseconds"][0]
            for method, r in methods.items()
            if name.startswith("update") and not method.endswith(LATE)
        }
        best = max(bandwidth.values(), default=1.0)
        lines = [
            f"### {name}",
            "",
            "| method | ms (quartiles) | ÷ adamw (quartiles) | of the best bandwidth | state |"
            " floor, B | accessed, B | temporary, B | flops | compile, s | traces |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for method, r in methods.items():
            per = {
                key: f"{r[key] / r['parameters']:.1f}"
                for key in ("bytes_floor", "bytes_accessed", "bytes_temporary", "flops")
            }
            ms, ratio = ("{:.3g} ({:.3g}–{:.3g})".format(*r[k]) for k in ("milliseconds", "ratio"))
            share = f"{bandwidth[method] / best:.0%}" if method in bandwidth else "–"
            lines.append(
                f"| {method} | {ms} | {ratio} | {share} |"
                f" {r['state_buffers']:.2f} | {per['bytes_floor']} | {per['bytes_accessed']} |"
                f" {per['bytes_temporary']} | {per['flops']} | {r['compile_seconds']:.2f} |"
                f" {r['traces']} |"
            )
        blocks.append("\n".join(lines))
    slopes = growth(cases)
    if slopes:
        lines = ["### growth of the update with the parameters, slope in logarithms", ""]
        lines += ["| method | time | bytes accessed |", "|---|---|---|"]
        lines += [f"| {m} | {s:.2f} | {b:.2f} |" for m, (s, b) in slopes.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def growth(cases: dict[str, dict[str, dict]]) -> dict[str, tuple[float, float]]:
    """Slopes of log time and log bytes over log parameters, over the updates in 20 leaves."""
    updates = [methods for name, methods in cases.items() if name.endswith("in 20 leaves")]
    slopes = {}
    for method in METHODS:
        rows = [methods[method] for methods in updates if method in methods]
        if len(rows) > 1:
            x = np.log([r["parameters"] for r in rows])
            time_slope = np.polyfit(x, np.log([r["milliseconds"][0] for r in rows]), 1)[0]
            byte_slope = np.polyfit(x, np.log([r["bytes_accessed"] for r in rows]), 1)[0]
            slopes[method] = (float(time_slope), float(byte_slope))
    return slopes


def memory_table(peaks: dict[str, float]) -> str:
    """Markdown: bytes per parameter, and how many buffers like the parameters those are."""
    lines = ["| method | B per parameter | buffers in float32 |", "|---|---|---|"]
    lines += [
        f"| {method or 'parameters and gradients alone'} | {peak:.1f} | {peak / 4:.2f} |"
        for method, peak in peaks.items()
    ]
    return "\n".join(lines)


def read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def store(path: pathlib.Path, case: str, results: dict[str, Any], kind: str = "cases") -> None:
    """Adds to what is stored of this device; a newer figure replaces an older one."""
    here = environment()
    stored = read(path)
    device = stored.setdefault(here["device"], {"environment": here, "cases": {}})
    device["environment"] = here
    device.setdefault(kind, {}).setdefault(case, {}).update(results)
    path.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--size", type=float, help="only updates of so many parameters")
    parser.add_argument("--cases", nargs="+", help="names that contain one of these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=5.0, help="per method and case")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument(
        "--memory", action="store_true", help="only the memory of processes, on Linux"
    )
    parser.add_argument("--peak", choices=["", *METHODS], help="print that of this process, bytes")
    parser.add_argument(
        "--table", action="store_true", help="print what is stored, measure nothing"
    )
    options = parser.parse_args(arguments)
    if options.peak is not None:
        print(peak_memory(options.peak, options.size))
        return 0
    if options.memory:
        size = options.size or 20e6
        results = {m: memory(m, size) for m in ["", *options.methods]}
        store(options.results, f"{int(size):,} in 20 leaves", results, "memory")
        print(memory_table(results))
        return 0
    if options.table:
        for device, stored in read(options.results).items():
            print(table(device, stored["cases"]))
            for case, peaks in stored.get("memory", {}).items():
                print(f"\n### peak memory of a process, {case}\n\n{memory_table(peaks)}")
        return 0

    sizes = [(1e6, 20), (4e6, 20), (20e6, 20), (20e6, 2000)]
    if options.size is not None:
        sizes = [(options.size, 20), (options.size, 2000)]
    makers = [lambda s=s, n=n: update_alone(s, n) for s, n in sizes]
    if options.size is None:
        makers += [transformer, cnn]
        if jax.default_backend() != "cpu":
            makers.append(large_transformer)
    for make in makers:
        case = make()
        if options.cases and not any(part in case.name for part in options.cases):
            continue
        many = len(jax.tree.leaves(case.params)) > 1000
        methods = [m for m in options.methods if not (many and m in NOT_FOR_MANY_LEAVES)]
        results = measure(case, methods, options.seconds)
        store(options.results, case.name, results)
        print(table(environment()["device"], {case.name: results}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
