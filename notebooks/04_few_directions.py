# %% [markdown]
# # Newton steps in a few directions
#
# Where gradients carry no noise, as in curve fitting and in physics-informed networks, their
# changes along the way are curvature. `po.ogr()` regresses the Hessian in the span of its newest
# displacements and steps towards the extremum there: one gradient per step, no value of the loss,
# no line search. This notebook fits a curve, solves a differential equation, and looks at what the
# method sees, beside `optax.lbfgs()` and Adam.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import parabolic_optax as po

BLUE, ORANGE, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8a8a8a"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})

# %% [markdown]
# Everything is counted in gradients, since these are what costs time in earnest. A step of L-BFGS
# takes as many as its line search asks for; they are read from its state.


# %%
def minimise(optimizer, loss, start, gradients):
    """One gradient a step: losses before each step, gradients spent, parameters, readings."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), (value, params)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, gradients))
    (_, state), (values, params) = run((start, optimizer.init(start)))
    return np.asarray(values), np.arange(1, gradients + 1), params, state


def minimise_lbfgs(loss, start, gradients):
    """The same for ``optax.lbfgs()``."""
    optimizer, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry, _):
        params, state, spent = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        searched = state[-1].info.num_linesearch_steps.astype(jnp.int32)
        return (optax.apply_updates(params, updates), state, spent + searched), (
            value,
            spent,
            params,
        )

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, gradients))
    (_, state, _), (values, spent, params) = run((start, optimizer.init(start), jnp.int32(1)))
    within = np.asarray(spent) <= gradients
    params = jax.tree.map(lambda leaf: leaf[within], params)
    return np.asarray(values)[within], np.asarray(spent)[within], params, state


RATES = (1e-3, 1e-2, 1e-1)


def compare(loss, start, gradients):
    """Runs of every method from one start; of Adam the one of its rates that ends lowest."""
    adam = {rate: minimise(optax.adam(rate), loss, start, gradients) for rate in RATES}
    best = min(adam, key=lambda rate: np.nanmin(adam[rate][0]))
    return {
        "ogr()": minimise(po.ogr(), loss, start, gradients),
        "optax.lbfgs()": minimise_lbfgs(loss, start, gradients),
        "parabolic_adam()": minimise(po.parabolic_adam(), loss, start, gradients),
        f"Adam at its best rate, {best:g}": adam[best],
    }


def best_at(run, gradients):
    """Lowest loss within a number of gradients."""
    values, spent, *_ = run
    return np.nanmin(values[spent <= gradients])


COLORS = (BLUE, ORANGE, PINK, GREY)

# %% [markdown]
# ## Fitting a curve
#
# Two overlapping peaks on a slope, with noise in the data, and eight parameters. The noise is the
# same at every step, so the gradients are exact.


# %%
def peaks(p, x):
    shape = jnp.exp(-(((x[:, None] - p["place"]) / p["width"]) ** 2))
    return shape @ p["height"] + p["offset"] + p["slope"] * x


truth = {
    "height": jnp.array([3.0, 1.5]),
    "place": jnp.array([3.5, 5.5]),
    "width": jnp.array([0.8, 1.2]),
    "offset": jnp.array(0.5),
    "slope": jnp.array(0.1),
}
guess = {
    "height": jnp.array([1.0, 1.0]),
    "place": jnp.array([3.0, 6.5]),
    "width": jnp.array([1.0, 1.0]),
    "offset": jnp.array(0.0),
    "slope": jnp.array(0.0),
}
x = jnp.linspace(0.0, 10.0, 200)
noise = 0.05 * jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)
measured = peaks(truth, x) + noise


def misfit(p):
    return jnp.mean((peaks(p, x) - measured) ** 2)


fits = compare(misfit, guess, 300)
lowest = min(np.nanmin(values) for values, *_ in fits.values())

# %%
SHOWN = 40
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(x, measured, ".", color="#c0c0c0", ms=4, label="data")
left.plot(x, peaks(guess, x), color="k", lw=0.8, ls=":", label="first guess")
for (name, (values, spent, params, _)), color in zip(fits.items(), COLORS, strict=True):
    last = int(np.searchsorted(spent, SHOWN, "right")) - 1
    fit = peaks(jax.tree.map(lambda leaf, n=last: leaf[n], params), x)
    left.plot(x, fit, color=color, lw=4.0 if name == "ogr()" else 1.5)  # it lies behind another
    right.loglog(spent, np.minimum.accumulate(values) / lowest - 1.0, color=color, label=name)
left.set(title=f"The fits after {SHOWN} gradients", xlabel="x", ylabel="y")
left.legend(frameon=False)
right.set(title="Misfit above the lowest, relative", xlabel="gradients", ylim=(1e-5, None))
right.legend(frameon=False, fontsize=9)
plt.show()

for name, run in fits.items():
    reached = run[0] <= 1.01 * lowest
    needed = f"{run[1][np.argmax(reached)]}" if reached.any() else f"more than {run[1][-1]}"
    print(f"{name}: within 1 % of the lowest misfit after {needed} gradients")
_, _, params, _ = fits["ogr()"]
print("found by ogr():")
for name, value in truth.items():
    pairs = zip(np.atleast_1d(value), np.atleast_1d(params[name][-1]), strict=True)
    print(f"{name:6}", *(f"{found:.3f} (true {true:.1f})" for true, found in pairs))

# %% [markdown]
# ## A physics-informed network
#
# The network u(x) shall satisfy u'' = f on [0, 1] and vanish at both ends. The loss is the mean
# square of what is left of the equation at 64 points, and of the ends. Such losses are badly
# conditioned, because they hold second derivatives. Three starts, 2,000 gradients each.


# %%
def solution(x):
    return jnp.sin(jnp.pi * x) + 0.3 * jnp.sin(5.0 * jnp.pi * x)


def network(params, x):
    *hidden, (weights, bias) = params
    values = x[None]
    for w, b in hidden:
        values = jnp.tanh(values @ w + b)
    return (values @ weights + bias)[0]


def initial(seed, sizes=(1, 20, 20, 1)):
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        (jax.random.normal(key, (a, b)) / a**0.5, jnp.zeros(b))
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


points = jnp.linspace(0.0, 1.0, 64)
force = jax.vmap(jax.grad(jax.grad(solution)))(points)


def residual(params):
    def u(x):
        return network(params, x)

    left_over = jax.vmap(jax.grad(jax.grad(u)))(points) - force
    return jnp.mean(left_over**2) + 100.0 * (u(points[0]) ** 2 + u(points[-1]) ** 2)


GRADIENTS, SEEDS = 2000, 3
runs = [compare(residual, initial(seed), GRADIENTS) for seed in range(SEEDS)]
labels = ("ogr()", "optax.lbfgs()", "parabolic_adam()", "Adam at its best rate")

# %%
dense = jnp.linspace(0.0, 1.0, 300)


def error(params):
    """Largest deviation from the solution."""
    return jnp.max(jnp.abs(jax.vmap(lambda x: network(params, x))(dense) - solution(dense)))


EARLY = 150
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(dense, solution(dense), color="k", lw=0.8, ls=":", label="solution")
for index, (label, color) in enumerate(zip(labels, COLORS, strict=True)):
    several = [list(run.values())[index] for run in runs]
    for seed, (values, spent, params, _) in enumerate(several):
        kept = label if seed == 0 else None
        right.loglog(spent, np.minimum.accumulate(values), color=color, lw=1.2, label=kept)
        if seed == 0:
            last = int(np.searchsorted(spent, EARLY, "right")) - 1
            early = jax.tree.map(lambda leaf, n=last: leaf[n], params)
            left.plot(dense, jax.vmap(lambda x, p=early: network(p, x))(dense), color=color)
left.set(title=f"u(x) after {EARLY} gradients, first start", xlabel="x", ylabel="u")
left.legend(frameon=False)
right.set(title="Lowest loss so far, three starts", xlabel="gradients", ylabel="loss")
right.set(xlim=(10, None))
right.legend(frameon=False, fontsize=9)
plt.show()

for index, label in enumerate(labels):
    several = [list(run.values())[index] for run in runs]
    losses = [f"{best_at(run, GRADIENTS):.1e}" for run in several]
    ends = [jax.tree.map(lambda leaf: leaf[-1], run[2]) for run in several]
    errors = [f"{error(params):.1e}" for params in ends]
    print(f"{label:21} loss {' '.join(losses)}, largest error of u {' '.join(errors)}")

# %% [markdown]
# ## What it sees
#
# The network is small enough for its whole Hessian. The eigenvalues that `ogr()` has regressed in
# its ten directions, from gradients alone, stand below beside the exact ones at the end of the
# first run. It does not look for the largest: its directions are where the run has just been.

# %%
_, _, params, state = runs[0]["ogr()"]
end = jax.tree.map(lambda leaf: leaf[-1], params)
flat, unravel = jax.flatten_util.ravel_pytree(end)
exact = np.linalg.eigvalsh(np.asarray(jax.hessian(lambda p: residual(unravel(p)))(flat), float))
seen = np.asarray(po.metrics(state)["eigenvalues"])

figure, axes = plt.subplots(figsize=(7, 3.2))
axes.plot(exact[exact > 0][::-1], ".", color=GREY, ms=4, label="exact, positive ones in order")
axes.hlines(seen[seen > 0], 0, 40, color=BLUE, lw=1.2, label="seen by ogr()")
axes.set(yscale="log", xlabel="number of the eigenvalue", ylabel="curvature", ylim=(1e-6, None))
axes.legend(frameon=False)
axes.set_title("Curvatures of the loss at the end of a run")
plt.show()
inside = np.mean((seen >= exact[0]) & (seen <= exact[-1]))
print(f"{len(flat)} parameters; exact eigenvalues from {exact[0]:.1e} to {exact[-1]:.1e}")
print("seen:", *(f"{value:.1e}" for value in seen))
print(f"of the seen ones inside that range: {inside:.0%}")

# %% [markdown]
# ## The price, and noise
#
# Ten pairs of directions and gradient changes are kept, and inner products with them are taken at
# every step. Against gradients as cheap as these it shows; below are the times of whole steps.
#
# With minibatches the changes of gradients are noise rather than curvature. `ogr()` measures that
# at its eighth sample and rarely later, and makes the steps of `parabolic_adam()` meanwhile;
# `second_order` is 1 where its own steps are on.

# %%
start = initial(0)
for name, optimizer in {"ogr()": po.ogr(), "Adam": optax.adam(1e-2)}.items():

    @jax.jit
    def step(params, state, optimizer=optimizer):
        updates, state = optimizer.update(jax.grad(residual)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(start, optimizer.init(start))
    begin = time.perf_counter()
    for _ in range(200):
        params, state = step(params, state)
    jax.block_until_ready(params)
    print(f"{name}: {1e3 * (time.perf_counter() - begin) / 200:.2f} ms a step")

rng, optimizer = np.random.default_rng(1), po.ogr()
for name, size in [("all 200 data", None), ("32 of 200 data", 32)]:
    params, state = guess, optimizer.init(guess)
    update = jax.jit(optimizer.update)
    gradient = jax.jit(jax.grad(lambda p, i: jnp.mean((peaks(p, x[i]) - measured[i]) ** 2)))
    for _ in range(100):
        chosen = np.arange(200) if size is None else rng.integers(0, 200, size)
        updates, state = update(gradient(params, chosen), state, params)
        params = optax.apply_updates(params, updates)
    readings = po.metrics(state)
    print(f"{name}: second_order {readings['second_order']:.0f}, misfit {misfit(params):.4f}")
