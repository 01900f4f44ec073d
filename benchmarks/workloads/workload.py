"""The interface between a problem and what trains it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

VARIATIONS = ("batch", "horizon", "init", "loss")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A problem to train on.

    Attributes:
      name: unique, also in the records.
      init: from a key to parameters.
      loss: of parameters on a batch, the scalar that is trained on; the key is for models
        that draw random numbers.
      train: arrays whose rows are gathered into batches, in whole shuffled epochs.
      held_out: what `evaluate` gets.
      evaluate: of parameters on `held_out`, the positive scalar that is reported; lower is
        better. The default is the loss with a fixed key.
      in_order: whether the rows are taken once, in their order, in place of shuffled epochs.
      batch: rows per step.
      steps: length of a run.
    """

    name: str
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any, jax.Array], jax.Array]
    train: Any
    held_out: Any
    batch: int
    steps: int
    evaluate: Callable[[Any, Any], jax.Array] | None = None
    in_order: bool = False

    def held_out_loss(self, params: Any, held_out: Any) -> jax.Array:
        if self.evaluate is None:
            return self.loss(params, held_out, jax.random.key(0))
        return self.evaluate(params, held_out)

    def vary(self, what: str, factor: float) -> "Workload":
        """The same problem with another batch size (absolute), or scaled; one of VARIATIONS.

        `horizon` scales the number of steps, `init` the initial parameters, and `loss` the
        loss that is trained on; what is reported is not scaled.
        """
        name = f"{self.name}@{what}={factor:g}"
        if what == "batch":
            return dataclasses.replace(self, name=name, batch=int(factor))
        if what == "horizon":
            return dataclasses.replace(self, name=name, steps=int(self.steps * factor))
        if what == "init":
            return dataclasses.replace(
                self,
                name=name,
                init=lambda key: jax.tree.map(lambda leaf: factor * leaf, self.init(key)),
            )
        assert what == "loss", what
        return dataclasses.replace(
            self,
            name=name,
            loss=lambda params, batch, key: factor * self.loss(params, batch, key),
            evaluate=self.held_out_loss,
        )


def supervised(
    name: str,
    data: Any,
    init: Callable[[jax.Array], Any],
    apply: Callable[[Any, jax.Array], jax.Array],
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    batch: int,
    steps: int,
) -> Workload:
    """A model of inputs that is compared with targets."""
    return Workload(
        name,
        init,
        lambda params, rows, key: loss(apply(params, rows[0]), rows[1]),
        data.train,
        data.held_out,
        batch,
        steps,
    )


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs.reshape(targets.shape) - targets) ** 2)
