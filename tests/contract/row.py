"""What a row is, and how one is checked."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

Make = functools.partial
"""A factory of optimizers; its keywords are the settings it is compared with."""


class NotApplicableError(Exception):
    """The row asks for something that the optimizer does not claim to have; says why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One promise.

    Attributes:
      check: raises where the promise is broken.
      apart: run it in a process of its own kind, because it needs several devices or changes
        settings of the whole process.
      slow: whether it takes long.
    """

    check: Callable[[Make], None]
    apart: bool = False
    slow: bool = False

    @property
    def group(self) -> str:
        return self.check.__module__.rpartition(".")[2]

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def promise(self) -> str:
        return (self.check.__doc__ or "").strip()


class Rows(list[Row]):
    """The rows of one group; the instance decorates the functions that become rows."""

    def __call__(self, **options: bool) -> Callable[[Callable[[Make], None]], Any]:
        def add(check: Callable[[Make], None]) -> Callable[[Make], None]:
            self.append(Row(check, **options))
            return check

        return add


DEVICES = 8


@functools.cache
def _apart() -> concurrent.futures.Executor:
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
    }
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with mock.patch.dict(os.environ, environment):
        pool.submit(int).result()  # starts the process, which keeps this environment
    return pool


def check(row: Row, make: Make) -> None:
    """Raises what the row raises, wherever it ran."""
    if row.apart:
        _apart().submit(row.check, make).result()
    else:
        row.check(make)
