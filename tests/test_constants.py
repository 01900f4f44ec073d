"""The table of constants: as they are they make the package's method, and each is reached."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import step_sizes

import parabolic_optax as po
from benchmarks import constants

FINDINGS = pathlib.Path(constants.__file__).parent / "FINDINGS.md"


def trained(optimizer, steps):
    """Parameters and their average: weights from near zero, gross outliers in the data."""
    drawn = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(drawn[0], (steps, 4, 3))
    y = x @ jnp.array([[3.0, -1.0], [0.5, 2.0], [4.0, 0.0]])
    y += 0.3 * jax.random.t(drawn[1], 1.5, y.shape)
    params = {"w": jnp.full((3, 2), 1e-2), "b": jnp.zeros(2)}

    def step(carry, batch):
        params, state = carry

        def loss(params):
            x, y = batch
            return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), (x, y))
    return params, po.eval_params(state, params)


def test_as_they_are_they_make_the_method_of_the_package():
    name, usual = next(constants.settings())
    assert name == ""
    ours, made = (trained(o, 100) for o in (po.parabolic_adamw(), constants.made(usual)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, made)


def changing(optimizer, steps=900):
    """Parameters that start near a point far from zero, which jumps to and fro later on."""
    params = 30.0 + jax.random.normal(jax.random.key(0), (3, 2))

    def step(carry, drawn):
        params, state = carry
        time, noise = drawn
        point = 30.0 + jnp.where(time > 600, jnp.sign(jnp.sin(0.03 * time)), 0.0)
        updates, state = optimizer.update(params - point + noise, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    noise = 0.3 * jax.random.normal(jax.random.key(1), (steps, 3, 2))
    return jax.lax.scan(step, carry, (jnp.arange(steps), noise))[0][0]


def limited(setting, steps=900):
    """Step sizes that grow, but were found too long for a while."""
    counts = jnp.arange(1, steps + 1)
    signals = jnp.where((counts > 300) & (counts <= 320), 1.0, -1.0)
    with constants.replaced(setting):
        rule = po.step_multiplicative(limit=1.0)
        return step_sizes(rule, jnp.array([[3.0, -4.0, 0.0, 0.0]]), 5.0, signals, first=3.0)


@pytest.fixture(scope="module")
def ends():
    def all_of_them(setting):
        made = constants.made(setting)
        return trained(made, 1100), changing(made), limited(setting)

    run = jax.jit(all_of_them)
    return {name: run(setting) for name, setting in constants.settings()}


@pytest.mark.parametrize("name", constants.CONSTANTS)
def test_every_constant_is_reached(ends, name):
    def distance(a, b):
        return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b)))

    changed = [end for label, end in ends.items() if label.rpartition(" ")[0] == name]
    assert changed
    assert all(np.isfinite(leaf).all() for end in changed for leaf in jax.tree.leaves(end))
    assert max(distance(end, ends[""]) for end in changed) > 0.0


def test_the_table_comes_from_what_is_stored():
    stored = json.loads(constants.RESULTS.read_text("utf-8"))
    table = constants.table(stored["problems"], stored["values"])
    assert table in FINDINGS.read_text("utf-8")


def test_what_is_stored_is_not_mixed_with_other_constants(tmp_path, capsys):
    results = tmp_path / "constants.json"
    results.write_text(json.dumps({"values": {"memory": 1.0}, "problems": {}}), "utf-8")
    with pytest.raises(SystemExit):
        constants.main(["--results", str(results)])
    assert "other constants" in capsys.readouterr().err
