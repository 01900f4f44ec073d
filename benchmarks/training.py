"""One run: parameters, batches and an optimizer, read out along the way."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.optimizers import Optimizer, Setting
from benchmarks.workloads import Workload
from parabolic_optax._demo.train import draw_batches

PIECES = 25


class Run(NamedTuple):
    """A run of one seed.

    Attributes:
      step: steps done at every reading.
      train: mean loss of the batches since the reading before.
      last: held-out loss of the parameters.
      readout: held-out loss of the parameters that the optimizer reads out.
      trace: what the optimizer says of itself, by name.
      seconds: spent on steps, neither compiling nor evaluating.
      compile_seconds: spent on tracing and compiling the steps, which later runs share, and on
        the first of them.
    """

    step: np.ndarray
    train: np.ndarray
    last: np.ndarray
    readout: np.ndarray
    trace: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float


class _Program(NamedTuple):
    init: Callable[..., Any]
    advance: Callable[..., Any]
    read: Callable[..., Any]
    compile_seconds: float


class Trainer:
    """Trains one workload; what is compiled is kept for the next run."""

    def __init__(self, workload: Workload):
        self.workload = workload
        self.piece = piece_length(workload.steps)
        self._rows = len(jax.tree.leaves(workload.train)[0])
        needed = workload.batch * (workload.steps if workload.in_order else 1)
        if needed > self._rows:
            raise ValueError(f"{workload.name} needs {needed} rows, but has {self._rows}")
        self._data = jax.tree.map(jnp.asarray, (workload.train, workload.held_out))
        self._init = jax.jit(workload.init)
        self._evaluate = jax.jit(workload.held_out_loss)
        self._programs: dict[Any, _Program] = {}

    def run(
        self,
        optimizer: Optimizer,
        setting: Setting,
        seed: int,
        advanced: Callable[[int], Any] = lambda steps: None,
    ) -> Run:
        """Trains from the start that belongs to a seed; calls `advanced` as steps get done."""
        workload = self.workload
        train, held_out = self._data
        setting = {name: jnp.float32(value) for name, value in setting.items()}
        start, noise = jax.random.split(jax.random.key(seed))
        params = self._init(start)
        batches = self._batches(seed)
        keys = jax.random.split(noise, workload.steps)
        program = self._program(optimizer, setting, params)
        state = program.init(setting, params)
        readings, seconds = [], 0.0
        for done in range(0, workload.steps, self.piece):
            now = slice(done, done + self.piece)
            before = time.perf_counter()
            params, state, loss = jax.block_until_ready(
                program.advance(setting, params, state, train, batches[now], keys[now])
            )
            seconds += time.perf_counter() - before
            read_params, trace = program.read(state, params)
            last = self._evaluate(params, held_out)
            readout = last if read_params is None else self._evaluate(read_params, held_out)
            readings.append((done + self.piece, loss, last, readout, trace))
            advanced(self.piece)
        step, loss, last, readout, trace = zip(*readings, strict=True)
        return Run(
            np.asarray(step),
            np.asarray(loss),
            np.asarray(last),
            np.asarray(readout),
            {name: np.asarray([values[name] for values in trace]) for name in trace[0]},
            seconds,
            program.compile_seconds,
        )

    def _batches(self, seed: int) -> np.ndarray:
        """Row numbers, of shape [steps, batch]."""
        steps, batch = self.workload.steps, self.workload.batch
        if self.workload.in_order:
            return np.arange(steps * batch, dtype=np.int32).reshape(steps, batch)
        return draw_batches(self._rows, steps, batch, seed)

    def _program(self, optimizer: Optimizer, setting: Setting, params: Any) -> _Program:
        key = (optimizer.build, tuple(sorted(setting)))
        if key not in self._programs:
            self._programs[key] = self._compile(optimizer, setting, params)
        return self._programs[key]

    def _compile(self, optimizer: Optimizer, setting: Setting, params: Any) -> _Program:
        workload = self.workload

        def transformation(setting):
            made = optimizer.build(setting, workload.steps)
            return optax.with_extra_args_support(made)

        # Some packages create arrays when they are imported, which must not happen while tracing.
        transformation(setting)

        @jax.jit
        def init(setting, params):
            return transformation(setting).init(params)

        @jax.jit
        def advance(setting, params, state, train, batches, keys):
            def step(carry, drawn):
                params, state = carry
                rows, key = drawn
                batch = jax.tree.map(lambda column: column[rows], train)
                loss, grads = jax.value_and_grad(workload.loss)(params, batch, key)
                extra = {"value": loss} if optimizer.needs_loss else {}
                updates, state = transformation(setting).update(grads, state, params, **extra)
                return (optax.apply_updates(params, updates), state), loss

            (params, state), losses = jax.lax.scan(step, (params, state), (batches, keys))
            return params, state, losses.mean()

        @jax.jit
        def read(state, params):
            read_params = optimizer.readout and optimizer.readout(state, params)
            return read_params, optimizer.trace(state) if optimizer.trace else {}

        # A first piece, whose result is thrown away, so that no later one compiles.
        state = init(setting, params)
        rows = self._batches(0)[: self.piece]
        keys = jax.random.split(jax.random.key(0), self.piece)
        before = time.perf_counter()
        jax.block_until_ready(advance(setting, params, state, self._data[0], rows, keys))
        return _Program(init, advance, read, time.perf_counter() - before)


def piece_length(steps: int) -> int:
    """Steps between two readings: a divisor, so that there are at most PIECES readings."""
    return next(length for length in range(-(-steps // PIECES), steps + 1) if steps % length == 0)
