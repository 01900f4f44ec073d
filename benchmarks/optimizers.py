"""What is compared: ours, tuned standards, and other methods that need no learning rate."""

import ast
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

import parabolic_optax as po
from parabolic_optax._decay import descend
from parabolic_optax._demo.optimizers import with_tail_mean
from parabolic_optax._layout import Layout

Setting = Mapping[str, Any]


class Optimizer(NamedTuple):
    """A method and how it is used.

    Attributes:
      name: unique, also in the records.
      kind: "ours", "tuned", "fixed" (one setting for all problems) or "peer".
      build: from a setting, whose values may be traced, and the number of steps.
      setting: what it runs with; the tuner adds a rate.
      rates: grid of learning rates to start from, ascending by factors of two; empty for
        methods that run at their defaults.
      decays: weight decays to try at the best rate, or beside the default; ascending.
      results: what the records are judged by: "last" (the parameters) and "readout".
      readout: from state and parameters to the parameters to evaluate.
      trace: from the state to named scalars to store along the run.
      needs_loss: whether its update wants the loss of the batch, as ``value``.
    """

    name: str
    kind: str
    build: Callable[[Setting, int], optax.GradientTransformation]
    setting: Setting = MappingProxyType({})
    rates: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()
    results: tuple[str, ...] = ("last",)
    readout: Callable[[Any, Any], Any] | None = None
    trace: Callable[[Any], dict[str, jax.Array]] | None = None
    needs_loss: bool = False


def with_rate(direction: Callable[[], optax.GradientTransformation], warm_up: float = 0.05):
    """A direction times a rate: constant, or with warm-up and cosine decay to zero.

    The shape of the schedule and the decay are part of the setting, so that all of them
    share one compiled program.
    """

    def build(setting: Setting, steps: int) -> optax.GradientTransformation:
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, int(warm_up * steps)), steps)

        def rate(count):
            return -setting["rate"] * jnp.where(setting["cosine"] > 0.0, shape(count), 1.0)

        return with_tail_mean(
            optax.chain(
                direction(),
                optax.add_decayed_weights(setting["weight_decay"]),
                optax.scale_by_schedule(rate),
            )
        )

    return build


def ours(name: str, make: Callable[..., Any]) -> Optimizer:
    """Ours at its defaults, or with the constants of a setting."""

    def build(setting: Setting, steps: int):
        return make(**setting)

    return Optimizer(
        name,
        "ours",
        build,
        results=("readout", "last"),
        readout=po.eval_params,
        trace=_readings_of("tensor"),
    )


def _readings_of(per: Any) -> Callable[[Any], dict[str, jax.Array]]:
    def readings(state):
        metrics = po.metrics(state, per)
        return {name: metrics[name] for name in ("step_size", "curvature", "signal")}

    return readings


def with_final_decay(optimizer: Optimizer) -> Optimizer:
    """Ours where the user knows the length: a linear decay over the last three tenths."""

    def build(setting: Setting, steps: int):
        start = 7 * steps // 10
        schedule = optax.linear_schedule(1.0, 0.0, steps - start, start)
        return optimizer.build({"learning_rate": schedule, **setting}, steps)

    return optimizer._replace(name=f"{optimizer.name}+decay", build=build, results=("last",))


def peer(name: str, make: Callable[[], Any], readout=None) -> Optimizer:
    """Another's method as it comes; what has no readout of its own gets the mean that ours has."""
    if readout is not None:
        return Optimizer(
            name, "peer", lambda setting, steps: make(), results=("readout",), readout=readout
        )
    return Optimizer(
        name,
        "peer",
        lambda setting, steps: with_tail_mean(make()),
        results=("last", "readout"),
        readout=lambda state, params: state.mean,
    )


def _found_decay(rate: float) -> Optimizer:
    """What `parabolic_adamw` is without parabolas: direction, decay and mean, at one rate for all.

    Two rates are level on all development problems; the lower one is better on most.
    """

    def step(sample, state, params=None, **extra_args):
        del extra_args
        layout = Layout.of(params, "tensor")
        return descend(sample, jnp.full(layout.size, rate), params, layout), state

    links = (
        po.track_displacement(po.cautious(optax.scale_by_adam()), radial=True),
        po.decay_outward(0.25),
        po.decay_inward(3.0),
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), step),
    )
    return Optimizer(
        f"adamw_found_{rate}",
        "fixed",
        lambda setting, steps: optax.chain(*links),
        results=("readout", "last"),
        readout=po.eval_params,
    )


def _muon() -> optax.GradientTransformation:
    return optax.chain(optax.contrib.muon(1.0), optax.scale(-1.0))


def _kron() -> optax.GradientTransformation:
    from psgdax.psgd import scale_by_kron

    return scale_by_kron()


def _prism() -> optax.GradientTransformation:
    import rollfast

    # It has no default rate; this is that of the other optimizers of the package.
    return rollfast.prism(learning_rate=1e-3)


def _psgdax() -> optax.GradientTransformation:
    from psgdax.psgd import kron

    return kron()


def _momentum() -> optax.GradientTransformation:
    return optax.trace(0.9)


def _doubling(centre: float) -> tuple[float, ...]:
    return tuple(centre * 2.0**power for power in range(-3, 4))


def _tuned(name: str, build, centre: float) -> tuple[Optimizer, Optimizer]:
    """The same direction at a constant rate and with warm-up and cosine."""
    common = Optimizer("", "tuned", build, rates=_doubling(centre), readout=lambda s, p: s.mean)
    constant, cosine = ({"cosine": shape, "weight_decay": 0.0} for shape in (0.0, 1.0))
    return (
        common._replace(name=f"{name}_constant", setting=constant, results=("last", "readout")),
        common._replace(name=f"{name}_cosine", setting=cosine, decays=(0.0, 0.01, 0.1)),
    )


def _fixed(name: str, direction, *, cosine: float, rate: float) -> Optimizer:
    """A rate for all problems, the best on the development ones (`benchmarks.report`)."""
    return Optimizer(
        name,
        "fixed",
        with_rate(direction),
        {"cosine": cosine, "rate": rate, "weight_decay": 0.0},
        decays=(0.0, 0.01, 0.1),
        results=("last", "readout"),
        readout=lambda state, params: state.mean,
    )


_PARABOLIC_ADAM = ours("parabolic_adam", po.parabolic_adam)

OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        _PARABOLIC_ADAM,
        ours("parabolic_sgd", po.parabolic_sgd),
        ours("parabolic_adamw", po.parabolic_adamw)._replace(decays=(0.01, 0.1)),
        ours("parabolic_muon", po.parabolic_muon)._replace(decays=(0.01, 0.1)),
        ours("parabolic_lion", functools.partial(po.parabolic, optax.scale_by_lion())),
        ours("ogr", po.ogr),
        ours("parabolic_kron", lambda **setting: po.parabolic(_kron(), **setting)),
        with_final_decay(_PARABOLIC_ADAM),
        *_tuned("adam", with_rate(optax.scale_by_adam), 4e-3),
        _fixed("adam_cosine_fixed", optax.scale_by_adam, cosine=1.0, rate=0.016),
        _fixed("adam_constant_fixed", optax.scale_by_adam, cosine=0.0, rate=0.008),
        _fixed("muon_cosine_fixed", _muon, cosine=1.0, rate=0.016),
        *(_found_decay(rate) for rate in (0.016, 0.032)),
        *_tuned("sgd", with_rate(_momentum), 2e-2),
        _tuned("muon", with_rate(_muon), 4e-3)[1],
        peer("adam_default", lambda: optax.adam(1e-3)),
        peer("prodigy", optax.contrib.prodigy),
        peer(
            "schedule_free_adamw",
            optax.contrib.schedule_free_adamw,
            optax.contrib.schedule_free_eval_params,
        ),
        peer("mechanic_adamw", lambda: optax.contrib.mechanize(optax.adamw(1.0))),
        peer("momo_adam", optax.contrib.momo_adam)._replace(needs_loss=True),
        peer("dadapt_adamw", optax.contrib.dadapt_adamw),
        peer("dowg", optax.contrib.dowg),
        peer("dog", optax.contrib.dog),
        peer("cocob", optax.contrib.cocob),
        peer("psgdax_kron", _psgdax),
        peer("rollfast_prism", _prism),
    )
}


def read_out(state: Any, params: Any) -> Any:
    """The average of ours, or of what `with_tail_mean` wraps."""
    return state.mean if hasattr(state, "mean") else po.eval_params(state, params)


def step_size(state: Any) -> jax.Array:
    """That of ours, 0 for what `with_tail_mean` wraps."""
    return jnp.zeros([]) if hasattr(state, "mean") else po.metrics(state)["step_size"]


def find(name: str) -> Optimizer:
    """The optimizer called `name`, with constants as in ``parabolic_adam@initial_step=1e-3``.

    Constants are not traced, so that any argument of the constructor can be given.

    Raises:
      ValueError: there is none; the message lists what there is.
    """
    base, *constants = name.split("@")
    if base not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {base!r}; known are {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[base]
    if not constants:
        return optimizer
    if optimizer.kind != "ours":
        raise ValueError(f"{base} takes no constants; only this package's optimizers do")
    pairs = (constant.partition("=") for constant in constants)
    chosen = {argument: _constant(value) for argument, _, value in pairs}

    def build(setting: Setting, steps: int):
        return optimizer.build({**chosen, **setting}, steps)

    trace = _readings_of(chosen.get("per", "tensor"))
    return optimizer._replace(name=name, build=build, trace=trace, decays=())


def _constant(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def names(*kinds: str) -> tuple[str, ...]:
    """The names of one or several kinds."""
    return tuple(name for name, optimizer in OPTIMIZERS.items() if optimizer.kind in kinds)
