"""Weight decay where the loss drives the weights outward, and nowhere else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import enable_x64

import parabolic_optax as po
from parabolic_optax import _decay
from parabolic_optax._types import Radial

NORMAL = jnp.array([1.0, -2.0, 3.0]) / jnp.sqrt(14.0)

mean = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(mean, st.floats(2.0**-10, 1e3, width=32))
def test_kernel_matches_its_twin(slope, size):
    got = _decay.outward_kernel(jnp.float32(slope), jnp.float32(size))
    np.testing.assert_allclose(got, reference.outward(slope, size), rtol=2e-5, atol=1e-6)


def test_kernel_is_zero_before_anything_was_seen():
    assert _decay.outward_kernel(jnp.float32(0.0), jnp.float32(0.0)) == 0.0


@few
@given(st.floats(-2.0, 4.0, width=32))
def test_held_kernel_matches_its_twin(growth):
    got = _decay.held_kernel(jnp.float32(growth))
    np.testing.assert_allclose(got, reference.held(growth), atol=1e-6)


@few
@given(mean, st.floats(2.0**-10, 1e3, width=32), mean, st.floats(-4.0, 4.0, width=32))
def test_tangential_kernel_matches_its_twin(slope, position, radial_slope, growth):
    numbers = (slope, position, radial_slope, growth)
    got = _decay.tangential_kernel(*(jnp.float32(number) for number in numbers))
    size = abs(slope) + abs(growth * radial_slope) / position
    np.testing.assert_allclose(got, reference.tangential(*numbers), atol=1e-6 * size + 1e-30)


def test_tangential_kernel_where_nothing_has_moved():
    got = _decay.tangential_kernel(*(jnp.float32(number) for number in (2.0, 0.0, 3.0, 0.5)))
    assert got == 2.0


def train(optimizer, gradient, params: Any, steps=800) -> Any:
    """Parameters, state, and the decay of every step, under noise of unit variance or data."""

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(gradient(params, key), state, params)
        log = po.metrics(state)
        decay = log.get("weight_decay", jnp.zeros([]))
        return (optax.apply_updates(params, updates), state), decay

    keys = jax.random.split(jax.random.key(1), steps)
    (params, state), decays = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, state, decays


def separable(params, key):
    """Gradient of a logistic regression on data with a margin: it is best at infinity."""
    drawn = jax.random.normal(jax.random.key(7), (64, 3)) + jnp.array([0.5, 0.0, -0.5])
    side = jnp.sign(drawn @ NORMAL)
    x = (drawn + side[:, None] * NORMAL)[jax.random.choice(key, 64, (16,))]
    y = jnp.sign(x @ NORMAL)
    return jax.grad(lambda w: jnp.mean(jax.nn.softplus(-y * (x @ w))))(params)


def bowl(params, key):
    """Gradient of a quadratic with its minimum off the origin, under noise."""
    noise = jax.random.normal(key, params.shape)
    return jnp.array([1.0, 5.0, 0.5]) * (params - jnp.array([2.0, -1.0, 4.0])) + noise


def test_weights_that_grow_without_end_are_held():
    start = jnp.array([0.3, -0.1, 0.2])
    free, _, _ = train(po.parabolic_adam(), separable, start)
    # As far as weights that shrink like 1 / t can be held; a tenth of the default is enough.
    for strength in (0.025, 0.25, 1.0):
        optimizer = po.parabolic(optax.scale_by_adam(), decay=po.decay_outward(strength, mask=True))
        held, state, decays = train(optimizer, separable, start)
        assert jnp.linalg.norm(held) < 0.65 * jnp.linalg.norm(free)
        assert po.metrics(state)["weight_decay"] >= 0.3 * strength
        assert jnp.all((decays >= 0.0) & (decays <= strength))


def test_a_minimum_is_not_moved():
    start = jnp.array([0.3, -0.1, 0.2])
    free, free_state, _ = train(po.parabolic_adam(), bowl, start)
    held, state, decays = train(po.parabolic_adamw(mask=True), bowl, start)
    minimum = jnp.array([2.0, -1.0, 4.0])

    def miss(state, params):
        return jnp.linalg.norm(po.eval_params(state, params) - minimum)

    assert jnp.mean(decays[400:]) < 0.02
    assert miss(state, held) < miss(free_state, free) + 0.05


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("make", [po.parabolic_adamw, po.parabolic_muon])
def test_linear_regression_from_zero_finds_the_way_outward(make, noise):
    target = jnp.array([[3.0, -2.0], [1.0, 4.0]])

    def gradient(params, key):
        return 2.0 * (params - target) + noise * jax.random.normal(key, params.shape)

    params, state, _ = train(make(), gradient, jnp.zeros((2, 2)), steps=400)
    assert jnp.linalg.norm(po.eval_params(state, params) - target) < 0.2 * jnp.linalg.norm(target)


def links(**arguments) -> Any:
    per = arguments.get("per", "tensor")
    tracker = po.track_displacement(optax.identity(), per=per, radial=True)
    return optax.chain(tracker, po.decay_outward(**arguments))


def test_only_masked_leaves_decay_and_count():
    params = {"b": jnp.array([5.0]), "w": jnp.array([2.0, -1.0])}
    grads = {"b": jnp.array([30.0]), "w": jnp.array([-1.0, 0.5])}
    for mask in ({"b": False, "w": True}, lambda tree: {"b": False, "w": True}):
        chain = links(mask=mask)
        sample, _ = chain.update(grads, chain.init(params), params)
        np.testing.assert_allclose(sample.decay, [0.0, 0.25])


def test_matrices_decay_and_count_by_default():
    params = {"b": jnp.array([5.0]), "w": jnp.array([[2.0, -1.0]])}
    grads = {"b": jnp.array([30.0]), "w": jnp.array([[-1.0, 0.5]])}
    chain = links()
    sample, _ = chain.update(grads, chain.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.0, 0.25])


def test_slices_of_a_stack_are_matrices_by_their_own_axes():
    params = {"b": jnp.array([[5.0], [6.0]]), "w": jnp.array([[[2.0, -1.0]], [[1.0, 3.0]]])}
    chain = links(per={"b": 0, "w": 0})
    sample, _ = chain.update(jax.tree.map(jnp.negative, params), chain.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.0, 0.0, 0.25, 0.25])


@pytest.mark.parametrize(
    ("count", "decay", "shrinkage"), [(2, 0.5, 1 / 31), (11, 0.5, 0.025), (11, 0.01, 0.01)]
)
def test_weights_shrink_no_faster_than_the_run_gets_longer(count, decay, shrinkage):
    params = jnp.array([2.0, -4.0])
    sample = po.Sample(
        update=jnp.zeros(2),
        slope=jnp.zeros(1),
        position=jnp.zeros(1),
        count=jnp.int32(count),
        age=jnp.int32(count),
        stride=jnp.float32(1.0),
        usable=jnp.array(True),
        norm=jnp.float32(1.0),
        decay=jnp.array([decay]),
    )
    parabola = po.Parabola(sample, *(jnp.zeros(1) for _ in range(4)))
    rule: Any = po.step_multiplicative(initial_step=1.0)
    updates, _ = rule.update(parabola, rule.init(params), params)
    np.testing.assert_allclose(updates, -shrinkage * params, rtol=1e-6)


def test_the_slope_is_taken_along_the_averaged_parameters():
    """Not along the parameters, which noise throws about."""
    tracker: Any = po.track_displacement(optax.identity(), radial=True)
    first, far = jnp.array([2.0, -1.0]), jnp.array([50.0, 60.0])
    _, state = tracker.update(jnp.array([1.0, 1.0]), tracker.init(first), first)
    sample, _ = tracker.update(jnp.array([-1.0, 3.0]), state, far)
    np.testing.assert_allclose(sample.radial.products[0], [-5.0])
    tracker = po.track_displacement(optax.identity(), tail_power=None, radial=True)
    _, state = tracker.update(jnp.array([1.0, 1.0]), tracker.init(first), first)
    sample, _ = tracker.update(jnp.array([-1.0, 3.0]), state, far)
    np.testing.assert_allclose(sample.radial.products[0], [130.0])


def test_one_parabola_for_all_decays_the_same_leaves():
    params = {"b": jnp.array([5.0]), "w": jnp.array([[2.0, -1.0]])}
    grads = {"b": jnp.array([30.0]), "w": jnp.array([[-1.0, 0.5]])}
    for mask, decay in ((None, [0.0, 0.25]), ({"b": True, "w": False}, [0.0, 0.0])):
        chain = links(per="global", mask=mask)
        sample, _ = chain.update(grads, chain.init(params), params)
        assert sample.slope.shape == (1,)
        np.testing.assert_allclose(sample.decay, decay)


@pytest.mark.parametrize("mean_dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("mask", [None, {"b": True, "w": False}])
@pytest.mark.parametrize("per", ["tensor", "global"])
def test_the_slope_is_judged_without_the_growth_of_what_decays(per, mask, mean_dtype):
    """Against the projection written out."""
    keys = jax.random.split(jax.random.key(3))
    params = {"b": jax.random.normal(keys[0], (2000,)), "w": jax.random.normal(keys[1], (40, 40))}
    moved = jax.tree.map(lambda p: p + 0.03 * jnp.cos(5.0 * p) + 0.01 * p, params)
    grads = jax.tree.map(lambda p: jnp.sin(7.0 * p) - p, moved)
    tracker: Any = po.track_displacement(
        optax.identity(), per=per, radial=True, mean_dtype=mean_dtype
    )
    _, state = tracker.update(grads, tracker.init(params), params)
    before, _ = tracker.update(grads, state, moved)
    decay: Any = po.decay_outward(mask=mask, per=per)

    def judged(length):
        means = jnp.array([-1e6, 1e6, np.log(length)], jnp.float32)
        return decay.update(before, decay.init(params)._replace(means=means), moved)[0]

    # The mean that is read out has a length of 40 or 45.
    sample, growing = judged(46.0), judged(10.0)

    name = "w" if mask is None else "b"
    tail, anchor = (
        jax.tree.map(lambda m: m.astype(jnp.float32), m) for m in (state.tail, state.anchor)
    )
    share = 0.7 * (1.0 - 10.0 / 11.0)
    displacement = jax.tree.map(lambda p, y, a: p + share * (y - p) - a, moved, tail, anchor)
    growth = jnp.sum(displacement[name] * tail[name]) / jnp.sum(tail[name] ** 2)
    left = displacement | {name: displacement[name] - growth * tail[name]}
    along = jnp.stack([jnp.sum(grads[name] * left[name]) for name in ("b", "w")])
    expected = jnp.sum(along, keepdims=True) if per == "global" else along
    got = sample.slope * before.radial.length
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    assert jnp.any(jnp.abs(got - before.slope * before.radial.length) > 0.1)
    half = 0.5 * (sample.slope + before.slope)
    np.testing.assert_allclose(growing.slope, half, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("power", [0.86, 0.9])
def test_the_power_of_t_by_which_weights_grow_is_read_to_1_over_t(power, unit):
    """Of a mean |y| = t^power the part h = 6 (1 - power) is held, and left out of the slope."""
    decay: Any = po.decay_outward(mask=True)
    params, one, minus = jnp.ones(2), jnp.ones(1), -jnp.ones(1)

    def held(state, count):
        square = jnp.array([(unit * count**power) ** 2], jnp.float32)
        sample = po.Sample(
            update=params,
            slope=minus,
            position=one,
            count=jnp.int32(count),
            age=jnp.int32(count),
            stride=jnp.float32(1.0),
            usable=jnp.array(True),
            norm=jnp.float32(1.0),
            radial=Radial(
                jnp.stack([minus, square, square]), one, jnp.ones(1, bool), jnp.float32(-1.0)
            ),
        )
        sample, state = decay.update(sample, state, params)
        return float(sample.slope[0]) + 1.0, state

    state = decay.init(params)
    _, state = held(state, 1)
    for _ in range(2):
        for count in range(2, 60):
            part, state = held(state, count)
            if count > 20:
                np.testing.assert_allclose(part, 6.0 * (1.0 - power), atol=6.0 * power / count)
        _, state = held(state.restart(), 1)


@pytest.mark.slow
def test_a_run_from_zero_has_a_derivative():
    optimizer = po.parabolic_adamw()

    def distance(target):
        params = jnp.zeros((2, 2))
        state = optimizer.init(params)
        for _ in range(4):
            updates, state = optimizer.update(params - target, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    derivative = jax.jit(jax.grad(distance))(jnp.array([[3.0, -2.0], [1.0, 4.0]]))
    assert jnp.all(jnp.isfinite(derivative))


def test_no_strength_changes_nothing():
    start = jnp.array([0.3, -0.1, 0.2])
    free, _, _ = train(po.parabolic(optax.scale_by_adam()), separable, start)
    none = po.parabolic(optax.scale_by_adam(), decay=po.decay_outward(0.0, mask=True))
    held, _, _ = train(none, separable, start)
    np.testing.assert_allclose(held, free, rtol=1e-5)


def test_leaves_may_have_strengths_of_their_own():
    masks = {"a": True, "b": False}, {"a": False, "b": True}
    params = {"a": jnp.full((1, 2), 2.0), "b": jnp.full((1, 2), 2.0)}
    links = optax.chain(
        po.track_displacement(optax.identity(), radial=True),
        *(po.decay_outward(w, m, always=True) for w, m in zip((0.25, 1.0), masks, strict=True)),
        *(po.decay_inward(w, m) for w, m in zip((3.0, 2.0), masks, strict=True)),
    )
    sample, _ = links.update(params, links.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.25, 1.0])
    np.testing.assert_allclose(sample.inward_decay, [3.0, 2.0])


def test_another_per_than_the_trackers_is_named():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    for per, own in (("global", "tensor"), ("tensor", "global")):
        tracker = po.track_displacement(optax.identity(), per=per, radial=True)
        chain: Any = optax.chain(tracker, po.decay_outward(per=own))
        with pytest.raises(ValueError, match="same per"):
            chain.update(params, chain.init(params), params)


def test_wide_constants_keep_the_types_of_the_state():
    with enable_x64():
        chain = links(strength=jnp.float64(0.25), memory=jnp.float64(29.0))
        params = jnp.ones((3, 2), jnp.float32)
        state = chain.init(params)
        sample, new = chain.update(params, state, params)
    assert sample.slope.dtype == jnp.float32
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)


@pytest.mark.parametrize("make", [po.parabolic_adamw, po.parabolic_muon])
def test_an_injected_decay_keeps_the_types_of_the_state(make):
    """It has the type of the gradients."""
    with enable_x64():
        optimizer = optax.inject_hyperparams(make)(weight_decay=0.1)
        params = jnp.ones((3, 2), jnp.float64)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(0.1 * params, state, params)
            return (optax.apply_updates(params, updates), state), None

        state = optimizer.init(params)
        (params, state), _ = jax.lax.scan(step, (params, state), None, 3)
        assert po.metrics(state)["weight_decay"] == np.float32(0.1)


def test_always():
    params = {"b": jnp.array([5.0]), "w": jnp.array([[2.0, -1.0]])}
    for sign in (-1.0, 1.0):
        for mask, decays in (
            (None, [0.0, 0.1]),
            (True, [0.1, 0.1]),
            ({"b": True, "w": False}, [0.1, 0]),
        ):
            chain = links(strength=0.1, always=True, mask=mask)
            grads = jax.tree.map(lambda p, sign=sign: sign * p, params)
            sample, _ = chain.update(grads, chain.init(params), params)
            np.testing.assert_allclose(sample.decay, decays)


def test_a_tracker_without_the_inner_products_is_named():
    chain: Any = optax.chain(po.track_displacement(optax.identity()), po.decay_outward())
    params = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="radial=True"):
        chain.update(params, chain.init(params), params)


def test_a_gradient_that_is_not_finite_changes_nothing():
    params = jnp.array([2.0, -1.0])
    chain = links(mask=True)
    _, state = chain.update(jnp.array([-1.0, 0.5]), chain.init(params), params)
    sample, after = chain.update(jnp.array([jnp.nan, 0.5]), state, params)
    np.testing.assert_array_equal(sample.decay, [0.0])
    jax.tree.map(np.testing.assert_array_equal, after[1], state[1])


def test_between_samples_a_decay_that_is_found_stays():
    params = jnp.array([2.0, -1.0])
    tracker = po.track_displacement(optax.identity(), radial=True)
    _, tracked = tracker.update(-params, tracker.init(params), params)
    tracked = tracked._replace(count=jnp.array(6000))  # one of five is a sample
    seen, state = [], po.decay_outward(0.25, mask=True).init(params)
    for number in range(8):
        # As with one that is injected.
        decay = po.decay_outward(0.25 + number, mask=True)
        sample, tracked = tracker.update(-params, tracked, params)
        _, after = decay.update(sample, state, params)
        seen.append(int(sample.stride))
        assert (after.decay == state.decay) == (sample.stride == 0)
        state = after
    assert set(seen) == {0, 5}


def test_reset_forgets():
    _, state, _ = train(po.parabolic_adamw(mask=True), separable, jnp.array([0.3, -0.1, 0.2]), 100)
    assert po.metrics(state)["weight_decay"] > 0.0
    assert po.metrics(po.reset(state))["weight_decay"] == 0.0


@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_reset_keeps_the_weights(weight_decay):
    optimizer = po.parabolic_adamw(weight_decay=weight_decay, mask=True)
    params, state, _ = train(optimizer, separable, jnp.array([0.3, -0.1, 0.2]))
    state, norm = po.reset(state), jnp.linalg.norm(params)
    update = jax.jit(optimizer.update)
    for number in range(10):
        grads = separable(params, jax.random.key(number))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert jnp.linalg.norm(params) > 0.6 * norm


@pytest.mark.parametrize(
    "given_decay", [0.1, *(pytest.param(w, marks=pytest.mark.slow) for w in (0.2, 1.0))]
)
def test_a_given_decay_does_not_throw_the_weights_over_zero(given_decay):
    """Decay holds them and the loss asks for more: steps judged with that would grow for ever."""
    start = jnp.array([0.3, -0.1, 0.2])
    held, _, _ = train(po.parabolic_adamw(weight_decay=given_decay), separable, start, 1500)
    free, _, _ = train(po.parabolic(po.cautious(optax.scale_by_adam())), separable, start, 1500)
    assert jnp.sum(held * NORMAL) > 0.9 * jnp.linalg.norm(held)
    assert jnp.linalg.norm(held) < 0.7 * jnp.linalg.norm(free)


@pytest.mark.parametrize("strength", [-0.1, float("nan")])
def test_impossible_strength(strength):
    with pytest.raises(ValueError, match="strength"):
        po.decay_outward(strength)


def test_impossible_weight_decay():
    for make in (po.parabolic_adamw, po.parabolic_muon):
        with pytest.raises(ValueError, match="weight_decay"):
            make(weight_decay=-0.1)


@pytest.mark.slow
def test_a_mask_may_be_a_module_that_can_be_called():
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    params = equinox.filter(model, equinox.is_array)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    assert callable(mask)
    optimizer = po.parabolic_adamw(weight_decay=0.1, mask=mask, initial_step=0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    plain = po.parabolic_adamw(weight_decay=0.0, initial_step=0.1)
    undecayed, _ = plain.update(params, plain.init(params), params)
    differ = [
        not bool(jnp.array_equal(u, v))
        for u, v in zip(jax.tree.leaves(updates), jax.tree.leaves(undecayed), strict=True)
    ]
    assert differ == jax.tree.leaves(mask)


@pytest.mark.parametrize("name", ["parabolic_adamw", "parabolic_sgd", "parabolic_muon"])
def test_every_optimizer_with_decay_takes_a_mask(name):
    params = {"w": jnp.eye(2), "v": jnp.eye(2)}
    optimizer = getattr(po, name)(weight_decay=0.5, mask={"w": True, "v": False}, initial_step=0.1)
    plain = getattr(po, name)(weight_decay=0.0, initial_step=0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    undecayed, _ = plain.update(params, plain.init(params), params)
    assert jnp.array_equal(updates["v"], undecayed["v"])
    # The shrinkage is at most 1 / (t + 29), which is less than 0.1 times 0.5.
    np.testing.assert_allclose(undecayed["w"] - updates["w"], params["w"] / 30.0, atol=1e-6)


@pytest.mark.parametrize("make", [po.parabolic_adamw, po.parabolic_sgd, po.parabolic_muon])
def test_decay_is_found_unless_a_number_is_given(make):
    params = {"w": jnp.ones((2, 2))}
    assert "weight_decay" not in po.metrics(make(weight_decay=0).init(params))
    optimizer = make()
    _, state = optimizer.update({"w": -jnp.ones((2, 2))}, optimizer.init(params), params)
    assert po.metrics(state)["weight_decay"] == (1.0 if make is po.parabolic_muon else 0.25)
