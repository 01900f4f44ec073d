"""The training loops of frameworks, and programs that take an optimizer as an argument.

None of them is told anything about the optimizer; most pass it nothing but gradients.
"""

import functools
import importlib
import os
from typing import Any
from unittest import mock

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

import parabolic_optax as po
from tests.contract.row import Make, NotApplicableError, Rows
from tests.contract.training import (
    assert_same_types,
    needs_readouts,
    needs_step_sizes,
    read_out,
    train,
)

ROWS = Rows()

X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)) + 1.0, jnp.float32)
Y = X @ jnp.array([[1.0], [-2.0], [3.0]]) + 4.0
STEPS = 300


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise NotApplicableError(f"{error.name} is not installed") from error


def error_of(predictions: jax.Array) -> jax.Array:
    return jnp.mean((predictions - Y) ** 2)


def assert_fitted(before: jax.Array, now: jax.Array) -> None:
    assert now < 0.5 * before, f"loss {before} to {now} only"


def linear(params: Any) -> jax.Array:
    return error_of(X @ params["linear"]["w"] + params["linear"]["b"])


@functools.cache
def fitted_nnx(make: Make) -> tuple[nnx.Linear, nnx.Optimizer, jax.Array]:
    """A trained model, its optimizer, and the loss of the first step."""
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: error_of(model(X)))(model)
        optimizer.update(model, grads)
        return loss

    first = step(model, optimizer)
    for _ in range(STEPS):
        step(model, optimizer)
    return model, optimizer, first


@ROWS()
def flax_nnx(make: Make) -> None:
    """Flax NNX, `nnx.Optimizer`"""
    model, _, first = fitted_nnx(make)
    assert_fitted(first, error_of(model(X)))


@ROWS()
def flax_nnx_readouts(make: Make) -> None:
    """the readouts take Flax NNX's variables as they are"""
    needs_readouts(make)
    model, optimizer, first = fitted_nnx(make)
    needs_step_sizes(optimizer.opt_state)
    assert {"step_size/kernel", "signal/bias"} <= set(po.metrics(optimizer.opt_state))
    graphdef, params = nnx.split(model, nnx.Param)
    for given in (params, nnx.as_pure(params)):
        averaged = po.eval_params(optimizer.opt_state, given)
        assert jax.tree.structure(averaged) == jax.tree.structure(given)
        assert_fitted(first, error_of(nnx.merge(graphdef, averaged)(X)))
    again = po.reset(optimizer.opt_state)
    assert jax.tree.structure(again) == jax.tree.structure(optimizer.opt_state)
    assert po.metrics(again)["count"] == 0


@ROWS()
def flax_linen(make: Make) -> None:
    """Flax linen, `TrainState`, which forwards no extra arguments"""
    model = nn.Dense(1)
    params = model.init(jax.random.key(1), X)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=make())

    @jax.jit
    def step(state, _):
        loss, grads = jax.value_and_grad(lambda p: error_of(model.apply(p, X)))(state.params)
        return state.apply_gradients(grads=grads), loss

    end, _ = jax.lax.scan(step, state, None, STEPS)
    assert_same_types(jax.tree.map(jnp.asarray, end), jax.tree.map(jnp.asarray, state))
    assert_fitted(error_of(model.apply(params, X)), error_of(model.apply(end.params, X)))


@ROWS()
def equinox(make: Make) -> None:
    """Equinox, filtered modules"""
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(1))
    optimizer = make()

    def loss(model):
        return error_of(jax.vmap(model)(X))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(grads, state, params)
        return eqx.apply_updates(model, updates), state

    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    end, _ = train(step, model, state, 2 * STEPS)
    assert_fitted(loss(model), loss(end))


@ROWS()
def haiku(make: Make) -> None:
    """Haiku, nested dictionaries"""
    hk = library("haiku")
    network = hk.without_apply_rng(hk.transform(lambda x: hk.Sequential([hk.Linear(1)])(x)))
    params = network.init(jax.random.key(2), X)
    optimizer = make()

    @jax.jit
    def run(carry):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(lambda params: error_of(network.apply(params, X)))(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, None, STEPS)[0]

    end, _ = run((params, optimizer.init(params)))
    assert_fitted(error_of(network.apply(params, X)), error_of(network.apply(end, X)))


ADAM = Make(optax.adam, 1e-2)


def assert_no_worse_than_adam(result: float, adam: float) -> None:
    assert np.isfinite(result)
    assert result <= adam + 1e-3 * abs(adam), f"{result} here, {adam} with Adam"


@ROWS(slow=True)
def optimistix(make: Make) -> None:
    """optimistix, `OptaxMinimiser`: no worse than with Adam"""
    optx = library("optimistix")

    def loss(params, _):
        return linear(params)

    def end(optimizer):
        solver = optx.OptaxMinimiser(optimizer, rtol=0.0, atol=0.0)
        start = {"linear": {"w": jnp.full((3, 1), 0.5), "b": jnp.ones(1)}}
        solution = optx.minimise(loss, solver, start, max_steps=STEPS, throw=False)
        return float(loss(solution.value, None))

    assert_no_worse_than_adam(end(make()), end(ADAM()))


@ROWS(apart=True, slow=True)
def numpyro(make: Make) -> None:
    """numpyro, `SVI`: no worse than with Adam"""
    library("numpyro")
    from numpyro import distributions as dist
    from numpyro import plate, sample
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def model(x, y):
        w = sample("w", dist.Normal(jnp.zeros(3), 5.0).to_event(1))
        b = sample("b", dist.Normal(0.0, 5.0))
        with plate("data", len(x)):
            sample("y", dist.Normal(x @ w + b, 0.5), obs=y)

    def end(optimizer):
        guide = AutoNormal(model)
        svi = SVI(model, guide, optimizer, Trace_ELBO())
        run = svi.run(jax.random.key(0), 2000, X, Y[:, 0], progress_bar=False)
        params, state = run.state.optim_state[1]
        return float(
            Trace_ELBO(num_particles=1000).loss(
                jax.random.key(1),
                svi.constrain_fn(read_out(state, params)),
                model,
                guide,
                X,
                Y[:, 0],
            )
        )

    assert_no_worse_than_adam(end(make()), end(ADAM()))


@ROWS(apart=True, slow=True)
def netket(make: Make) -> None:
    """NetKet, `VMC`: no worse than with Adam"""
    # It would set a mesh for this process, and so for the rows that come after.
    with mock.patch.dict(os.environ, {"NETKET_SHARDING": "0"}):
        nk = library("netket")
    with jax.enable_x64(True):
        graph = nk.graph.Chain(6)
        space = nk.hilbert.Spin(0.5, graph.n_nodes)
        hamiltonian = nk.operator.IsingJax(space, graph, h=1.0)

        def end(optimizer):
            state = nk.vqs.FullSumState(space, nk.models.RBM(alpha=1), seed=3)
            driver = nk.driver.VMC(hamiltonian, optimizer, variational_state=state)
            driver.run(400, out=None, show_progress=False)
            state.parameters = read_out(driver._optimizer_state, state.parameters)
            return float(state.expect(hamiltonian).mean.real)

        assert_no_worse_than_adam(end(make()), end(ADAM()))
