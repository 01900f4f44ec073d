from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import OPTIMIZERS, matrix_params

import parabolic_optax as po

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_params_are_needed(name):
    params = matrix_params()
    optimizer = OPTIMIZERS[name]()
    with pytest.raises(ValueError, match=r"params is needed.*update\(grads, state, params\)"):
        optimizer.update(params, optimizer.init(params))


def test_step_of_another_family():
    optimizer = optax.chain(po.track_secants(), po.estimate_secants(), po.step_newton())
    with pytest.raises(TypeError, match=r"got Secants.*step_trust_region after track_secants"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("base", [None, 0.1, "adam", optax.scale_by_adam])
def test_base_is_no_transformation(base):
    with pytest.raises(TypeError, match=r"base must be an optax gradient transformation"):
        po.parabolic(base)


@pytest.mark.parametrize(
    "base",
    [
        optax.adam(1e-3),
        optax.sgd(0.1),
        optax.contrib.muon(1e-3),
        optax.lion(1e-4),
        optax.adam(optax.linear_schedule(0.0, 1e-3, 100)),
    ],
    ids=["adam", "sgd", "muon", "lion", "warm-up"],
)
def test_base_points_downhill(base):
    for optimizer in (po.parabolic(base), po.cautious(base), po.ogr(base=base)):
        for init in (optimizer.init, jax.jit(optimizer.init)):
            with pytest.raises(ValueError, match=r"scale_by_adam"):
                init(PARAMS)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: po.step_multiplicative(growth=-1.0), "growth"),
        (lambda: po.step_multiplicative(decline=-1.0), "decline"),
        (lambda: po.step_multiplicative(max_rate=-0.1), "max_rate"),
        (lambda: po.parabolic(optax.identity(), limit=-1.0), "limit"),
        (lambda: po.step_multiplicative(brake=-0.1), "brake"),
        (lambda: po.step_multiplicative(initial_step=0), "initial_step"),
        (lambda: po.step_multiplicative(initial_step=float("nan")), "initial_step"),
        (lambda: po.estimate_uncentred(pooling=2), "pooling"),
        (lambda: po.estimate_uncentred(memory=-1.0), "memory"),
        (lambda: po.parabolic_adam(learning_rate=-1.0), "learning_rate"),
        (lambda: po.parabolic_adam(initial_step=np.float32(-1.0)), "initial_step"),
        (lambda: po.parabolic_sgd(weight_decay=-0.1), "weight_decay"),
        (lambda: po.track_displacement(optax.identity(), anchor_power=-1.0), "anchor_power"),
        (lambda: po.parabolic_adam(tail_power=-1.0), "tail_power"),
        (lambda: po.track_displacement(optax.identity(), tail_share=1.5), "tail_share"),
        (lambda: po.parabolic_adamw(window=1), "window"),
        (lambda: po.parabolic_adam(initial_step=0.0), "initial_step"),
        (lambda: po.parabolic_adam(initial_step=-1e-3), "initial_step"),
        (lambda: po.parabolic_adam(initial_step=float("inf")), "initial_step"),
        (lambda: po.parabolic_adam(b1=1.5), "b1"),
        (lambda: po.parabolic_adamw(b2=-0.5), "b2"),
        (lambda: po.parabolic_adamw(eps=-1.0), "eps"),
        (lambda: po.parabolic_sgd(momentum=-0.1), "momentum"),
        (lambda: po.parabolic_sgd(momentum=1.5), "momentum"),
    ],
)
def test_constant_out_of_range(make, name):
    with pytest.raises(ValueError, match=rf"{name} must be (finite and at least|in \[)"):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: po.parabolic_sgd(momentum=1.0), "momentum"),
        (lambda: po.parabolic_adam(b1=1.0), "b1"),
        (lambda: po.parabolic_adamw(b2=1), "b2"),
    ],
)
def test_memory_of_one(make, name):
    with pytest.raises(ValueError, match=f"{name} must be below 1"):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: po.step_multiplicative(growth="5"), "growth"),
        (lambda: po.estimate_uncentred(pooling="half"), "pooling"),
        (lambda: po.parabolic_adam(initial_step="small"), "initial_step"),
        (lambda: po.parabolic_adam(initial_step=None), "initial_step"),
        (lambda: po.parabolic_adam(tail_power="9"), "tail_power"),
        (lambda: po.parabolic_sgd(window="long"), "window"),
        (lambda: po.parabolic_sgd(momentum=True), "momentum"),
        (lambda: po.parabolic_adam("0.1"), "learning_rate"),
        (lambda: po.parabolic_adamw(True), "learning_rate"),
        (lambda: po.parabolic(optax.identity(), max_rate=None), "max_rate"),
        (lambda: po.step_multiplicative(growth=None), "growth"),
    ],
)
def test_constant_is_no_number(make, name):
    with pytest.raises(TypeError, match=rf"{name} must be a number"):
        make()


@pytest.mark.parametrize("mean_dtype", [jnp.float16, "float32", jnp.int32])
def test_means_of_another_type(mean_dtype):
    with pytest.raises(ValueError, match=r"mean_dtype must be None.*jnp.bfloat16; got \w+\."):
        po.parabolic_adam(mean_dtype=mean_dtype)


@pytest.mark.parametrize("mean_dtype", ["narrow", 16])
def test_means_of_no_type(mean_dtype):
    with pytest.raises(TypeError):
        po.parabolic_adam(mean_dtype=mean_dtype)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.arange(3), r"int32; .*optax.masked"),
        (3, r"int; .*optax.masked"),
        (jnp.ones(3, jnp.int4), r"int4; .*optax.masked"),
        (1.5, r"a Python float; .*jnp\.asarray"),
        (jnp.ones(3, jnp.float8_e4m3fn), r"float8_e4m3fn, .*bfloat16 or a wider type"),
        (jnp.ones(3, jnp.float8_e5m2), r"float8_e5m2, .*bfloat16 or a wider type"),
    ],
    ids=["ints", "int", "int4", "float", "float8", "wide range"],
)
@pytest.mark.parametrize("optimizer", [po.parabolic_adam(), po.ogr(), po.ogr_diagonal()])
def test_leaf_is_not_of_floating_type(optimizer, leaf, message):
    with pytest.raises(TypeError, match=f"parameter deep/n is {message}"):
        optimizer.init({"w": jnp.ones(2), "deep": {"n": leaf}})


def test_decay_is_no_transformation():
    with pytest.raises(TypeError, match=r"decay must be .*such as po.decay_outward\(\); got 0.1"):
        po.parabolic(optax.scale_by_adam(), decay=0.1)


@pytest.mark.parametrize("decay", [optax.add_decayed_weights(0.1), optax.scale(0.9)])
def test_decay_takes_no_sample(decay):
    optimizer = po.parabolic(optax.scale_by_adam(), decay=decay)
    for init in (optimizer.init, jax.jit(optimizer.init)):
        with pytest.raises(TypeError, match=r"po\.decay_outward\(\).*part of the base"):
            init(PARAMS)


@pytest.mark.parametrize("decay", [optax.identity(), po.decay_inward()])
def test_decay_that_takes_samples_or_does_nothing(decay):
    optimizer = po.parabolic(optax.scale_by_adam(), decay=decay)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize(
    "directions", [jnp.ones((1, 3)), {"w": jnp.ones((1, 2, 3)), "b": jnp.ones((1, 2))}]
)
def test_directions_of_other_parameters(directions):
    with pytest.raises(ValueError, match="directions must be like the parameters"):
        po.track_fixed(directions).init(PARAMS)


def tracker_and_state():
    tracker = po.track_displacement(optax.identity())
    return tracker, tracker.init(PARAMS)


def test_gradients_of_another_tree():
    tracker, state = tracker_and_state()
    with pytest.raises(ValueError, match="different trees"):
        tracker.update({"w": PARAMS["w"]}, state, PARAMS)


def test_gradients_of_another_shape():
    tracker, state = tracker_and_state()
    with pytest.raises(ValueError, match=r"gradient of w has shape \(3, 2\).*\(2, 3\)"):
        tracker.update({"w": jnp.ones((3, 2)), "b": PARAMS["b"]}, state, PARAMS)


@pytest.mark.parametrize("per", ["layer", "tensors", ""])
def test_unknown_granularity(per):
    with pytest.raises(ValueError, match="is not known: use 'tensor', 'global'"):
        po.parabolic_adam(per=per).init(PARAMS)


@pytest.mark.parametrize("axis", [1, -2, 5])
def test_axis_out_of_range(axis):
    with pytest.raises(ValueError, match=rf"axis {axis} of b, which has shape \(3,\)"):
        po.parabolic_adam(per={"w": 0, "b": axis}).init(PARAMS)


@pytest.mark.parametrize("axis", [0.5, "x", True, jnp.arange(2)])
def test_axis_is_no_integer(axis):
    for per in ({"w": None, "b": axis}, lambda path, leaf: axis if path == "b" else None):
        with pytest.raises(ValueError, match=r"per gives .* for b: an axis must be an integer"):
            po.parabolic_adam(per=per).init(PARAMS)


@pytest.mark.parametrize("kind", ["axis", "bool"])
@pytest.mark.parametrize(
    "prefix", [{"w": 0}, {"w": 0, "c": 0}, {"w": 0, "b": (0, 1)}, [0, 0]], ids=str
)
def test_a_tree_that_is_no_prefix_of_the_parameters(kind, prefix):
    name = {"axis": "per", "bool": "mask"}[kind]
    optimizer = po.parabolic_adamw(**{name: prefix})
    # JAX says where they differ, every version in its own words.
    message = rf"{name} must be one {kind} for all parameters, or a tree like .* subtree\. \w"
    with pytest.raises(ValueError, match=message):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("value", ["no", jnp.ones(3, bool)])
def test_a_mask_that_is_neither_true_nor_false(value):
    optimizer = po.parabolic_adamw(mask={"w": True, "b": value})
    with pytest.raises(ValueError, match=r"mask gives .* for b: it must be True or False"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


def test_links_of_different_granularity():
    chain = optax.chain(
        po.track_displacement(optax.identity()), po.estimate_uncentred(per="global")
    )
    with pytest.raises(ValueError, match=r"samples 2 parabolas.*estimator knows of 1.*same per"):
        chain.update(PARAMS, chain.init(PARAMS), PARAMS)


@pytest.mark.parametrize("pers", [("tensor", "global"), ("global", "tensor")])
def test_a_rule_of_different_granularity(pers):
    chain = optax.chain(
        po.track_displacement(optax.identity(), per=pers[0]),
        po.estimate_uncentred(per=pers[0]),
        po.step_multiplicative(per=pers[1]),
    )
    with pytest.raises(ValueError, match=r"samples . parabolas.*rule knows of .*same per"):
        chain.update(PARAMS, chain.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    "read", [po.metrics, po.reset, lambda s: po.eval_params(s, PARAMS)], ids=["m", "r", "e"]
)
@pytest.mark.parametrize("state", [optax.adam(1e-3).init(PARAMS), (), None, {"a": jnp.ones(2)}])
def test_readouts_of_a_foreign_state(read, state):
    with pytest.raises(ValueError, match="no link of parabolic_optax"):
        read(state)


def test_metrics_with_another_granularity():
    state = po.parabolic_adam(per={"w": 0, "b": None}).init(PARAMS)
    with pytest.raises(ValueError, match=r"of b has 3 parabolas, but .* 2: pass the per that was"):
        po.metrics(state)
    with pytest.raises(ValueError, match="axis 1 of b"):
        po.metrics(state, 1)
    with pytest.raises(ValueError, match="is not known"):
        po.metrics(po.parabolic_adam().init(PARAMS), "layer")


@pytest.mark.parametrize("optimizer", [po.parabolic_adam(), po.ogr(2)], ids=["adam", "ogr"])
def test_metrics_of_several_runs_at_once(optimizer):
    state = jax.vmap(optimizer.init)(jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS))
    with pytest.raises(ValueError, match=r"use jax.vmap\(metrics\)"):
        po.metrics(state)
    assert jax.vmap(po.metrics)(state)["count"].shape == (2,)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_averages_kept(name):
    params = matrix_params()
    state = OPTIMIZERS[name](tail_power=None).init(params)
    with pytest.raises(ValueError, match=r"tail_power=None.*tail_power=9"):
        po.eval_params(state, params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": jnp.ones((3, 2)), "b": jnp.ones(3)}, r"average of w of shape \(2, 3\).*\(3, 2\)"),
        ({"w": jnp.ones((2, 3))}, "averages of 1 leaves that are not among the parameters"),
        ({"v": jnp.ones((2, 3)), "b": jnp.ones(3)}, "averages of 1 leaves"),
    ],
)
def test_averages_of_other_parameters(params, message):
    state = po.parabolic_adam().init(PARAMS)
    with pytest.raises(ValueError, match=message):
        po.eval_params(state, params)


@pytest.mark.parametrize("learning_rate", [1e-3, np.float32(1e-3), np.array(1e-3)])
def test_a_constant_multiplier_that_looks_like_a_rate_is_warned_of(learning_rate):
    for make in (po.parabolic_adam, po.parabolic_muon, partial(po.parabolic, optax.identity())):
        with pytest.warns(UserWarning, match="learning_rate is 0.001, but it is a mul") as warned:
            make(learning_rate=learning_rate)
        assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize(
    ("learning_rate", "largest"),
    [
        (lambda count: 1e-3, "0.001"),
        (optax.cosine_decay_schedule(3e-4, 1000), "0.0003"),
        (optax.warmup_cosine_decay_schedule(0.0, 3e-3, 1000, 5000), "0.003"),
    ],
)
def test_a_schedule_that_looks_like_one_of_rates_is_warned_of(learning_rate, largest):
    for init in (
        po.parabolic_adam(learning_rate).init,
        jax.jit(po.parabolic_sgd(learning_rate).init),
    ):
        with pytest.warns(UserWarning, match=f"learning_rate stays at or below {largest}, but"):
            init(PARAMS)


def no_schedule(count):
    raise RuntimeError


@pytest.mark.parametrize(
    "learning_rate",
    [
        *(0.0, 0.5, 1, 2.0, np.array(0.5), jnp.float32(1e-3), jnp.full(2, 1e-3)),
        optax.linear_schedule(1.0, 0.0, 10, 0),
        optax.linear_schedule(0.0, 1.0, 1_000_000),
        no_schedule,
        lambda count: count.epoch,
        lambda count: None,
    ],
)
def test_multipliers_that_are_not_warned_of(learning_rate):
    po.parabolic_adam(learning_rate).init(PARAMS)


def test_multipliers_of_other_programs_are_not_warned_of():
    """A value that is traced or injected may be one of a schedule."""

    @jax.jit
    def step(rate):
        for learning_rate in (rate, lambda count: rate):
            optimizer = po.parabolic_adam(learning_rate)
            updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
        return updates

    step(1e-3)
    for make in (po.parabolic_adam, lambda learning_rate: po.parabolic_adam(learning_rate)):
        decay = optax.linear_schedule(1.0, 0.01, 2)
        optimizer = optax.inject_hyperparams(make)(learning_rate=decay)
        state = optimizer.init(PARAMS)
        for _ in range(4):
            _, state = optimizer.update(PARAMS, state, PARAMS)


def test_what_is_not_the_learning_rate_or_a_constant_of_adam_has_to_be_named():
    with pytest.raises(TypeError):
        po.parabolic_adamw(1.0, 0.9, 0.999, 1e-8, 0.1)
    with pytest.raises(TypeError):
        po.parabolic_muon(1.0, 0.1)
