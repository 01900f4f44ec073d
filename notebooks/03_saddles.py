# %% [markdown]
# # Saddles
#
# Where the gradient vanishes the loss need not be lowest: in some directions it may fall. Newton's
# method goes to the extremum of a parabola, also where that is a maximum, and so it is drawn to
# saddles. The sign of the curvature is enough to turn the attraction round. This notebook shows
# how, without a Hessian, and how many gradients it takes to leave.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import parabolic_optax as po

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a8a8a"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})


def planar(p):
    """A saddle at (0, 0) between minima at (0, 1) and (0, -1)."""
    x, y = p
    return 0.5 * (x**2 - y**2) + 0.25 * y**4


def monkey(p):
    """A saddle without curvature, three ways down, and walls far out."""
    x, y = p
    return x**3 - 3.0 * x * y**2 + 0.1 * (x**2 + y**2) ** 2


# %% [markdown]
# ## One direction
#
# Near the saddle, across it, the parabola through slope and curvature opens downwards. Its
# extremum is the top. A Newton step −slope/curvature climbs to it; −slope/|curvature| is as long
# and goes away from it.

# %%
here = 0.3


def across(y):
    return planar((0.0, y))


slope, curvature = jax.grad(across)(here), jax.grad(jax.grad(across))(here)
newton, flipped = here - slope / curvature, here - slope / jnp.abs(curvature)

grid = jnp.linspace(-0.7, 1.4, 200)
parabola = across(here) + slope * (grid - here) + 0.5 * curvature * (grid - here) ** 2
figure, axes = plt.subplots(figsize=(6.5, 3.4))
axes.plot(grid, jax.vmap(across)(grid), color=GREY, label="loss across the saddle")
axes.plot(grid, parabola, color=BLUE, ls="--", label="parabola at the dot")
axes.plot(here, across(here), "o", color="k", ms=8)
for place, color, label in [(newton, ORANGE, "Newton"), (flipped, GREEN, "turned round")]:
    axes.plot(place, across(place), "o", color=color, ms=8, label=label)
    arrow = {"arrowstyle": "->", "color": color, "lw": 2, "connectionstyle": "arc3,rad=0.25"}
    axes.annotate("", (place, across(place)), (here, across(here)), arrowprops=arrow)
axes.set(xlabel="y", ylabel="loss", ylim=(-0.45, 0.3))
axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
axes.set_title("Where a step from the black dot leads")
plt.show()
print(f"slope {slope:.3f}, curvature {curvature:.3f}")
print(f"from y = {here}: Newton goes to {newton:.3f}, the other to {flipped:.3f}")

# %% [markdown]
# ## Two directions
#
# The exact Hessian has an eigenvalue per direction, and the same holds for each. `po.ogr()` does
# this in the span of its newest displacements, from gradients alone. Beside it: Newton's method as
# it is, Newton's method with the absolute values of the exact eigenvalues, Adam, and Adam's
# direction with a step size found, which knows nothing of curvatures across its way.


# %%
def newton_with_hessian(loss, flip):
    """Steps of Newton's method with the exact Hessian, flipped where it is negative."""

    def update(gradient, state, params=None):
        eigenvalues, vectors = jnp.linalg.eigh(jax.hessian(loss)(params))
        scale = jnp.abs(eigenvalues) if flip else eigenvalues
        return -vectors @ ((vectors.T @ gradient) / scale), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def follow(optimizer, loss, start, steps=600):
    """Parameters and losses before each step, and readings of our optimizers after it."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        readings = po.metrics(state) if optimizer.update in ours else {}
        return (optax.apply_updates(params, updates), state), (params, value, readings)

    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[1])(
        (start, optimizer.init(start))
    )


ogr, parabolic_adam = po.ogr(), po.parabolic_adam()
ours = {ogr.update, parabolic_adam.update}
landscapes = {
    "planar": (planar, jnp.array([1.0, 0.05])),
    "monkey": (monkey, jnp.array([0.3, 0.1])),
}
paths = {
    name: {
        "Newton": follow(newton_with_hessian(loss, flip=False), loss, start),
        "Newton, turned round": follow(newton_with_hessian(loss, flip=True), loss, start),
        "Adam at 0.01": follow(optax.adam(1e-2), loss, start),
        "parabolic_adam()": follow(parabolic_adam, loss, start),
        "ogr()": follow(ogr, loss, start),
    }
    for name, (loss, start) in landscapes.items()
}

# %%
SHOWN = 60
styles = {
    "Newton": {"color": ORANGE, "marker": "X"},
    "Newton, turned round": {"color": GREEN, "marker": "o"},
    "Adam at 0.01": {"color": GREY, "marker": "."},
    "parabolic_adam()": {"color": PINK, "marker": "."},
    "ogr()": {"color": BLUE, "marker": "o"},
}
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
x, y = jnp.meshgrid(jnp.linspace(-1.4, 1.4, 140), jnp.linspace(-0.6, 1.6, 120))
for axes, (name, runs) in zip(panels, paths.items(), strict=True):
    loss, start = landscapes[name]
    axes.contour(x, y, loss((x, y)), 24, colors="#d0d0d0", linewidths=0.7)
    for label, (points, _, _) in runs.items():
        axes.plot(*points[:SHOWN].T, ms=6, lw=1.5, label=label, **styles[label])
    axes.plot(*start, "k*", ms=12, zorder=5, label="start")
    axes.set(title=f"{name}, first {SHOWN} gradients", xlim=(-1.4, 1.4), ylim=(-0.6, 1.6))
    axes.set(xlabel="x", ylabel="y", aspect="equal", xticks=(-1, 0, 1), yticks=(0, 1))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plt.show()

for name, runs in paths.items():
    for label, (points, values, _) in runs.items():
        end = ", ".join(f"{value:+.2f}" for value in points[-1] + 0.0)
        print(f"{name}, {label:21} ends at ({end}), loss {values[-1]:+.2f}")

# %% [markdown]
# ## What it sees
#
# The eigenvalues that `po.metrics` shows are regressed from gradients along the way. Below they
# stand beside the exact ones of the Hessian where the gradient was taken. They differ where the
# Hessian changed on the way between two gradients; a 0 stands for a direction of which nothing is
# known.

# %%
points, values, readings = paths["planar"]["ogr()"]
exact = jax.vmap(lambda p: jnp.linalg.eigvalsh(jax.hessian(planar)(p)))(points)
seen = readings["eigenvalues"]
smallest, largest = seen.min(axis=1), seen.max(axis=1)
print("gradient      x        y      exact          seen")
for number in range(12):
    place = f"{points[number, 0]:+.3f}  {points[number, 1]:+.4f}"
    truth = f"{exact[number, 0]:+.2f} {exact[number, 1]:+.2f}"
    print(f"{number + 1:5}     {place}   {truth}    {smallest[number]:+.2f} {largest[number]:+.2f}")

# %% [markdown]
# ## How many gradients it takes
#
# Adam's normalised steps leave a saddle too, and how fast is a matter of its rate. So Adam runs at
# a sweep of rates. The third problem is from learning: a product of three matrices shall equal a
# given one, and starts close to zero, where every direction is flat. Counted are the gradients
# until the loss has fallen a tenth of the way from the saddle to the lowest value that any method
# found.

# %%
target = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32)


def product(p):
    a, b, c = p.reshape(3, 5, 5)
    return jnp.mean((a @ b @ c - target) ** 2)


small = jnp.asarray(0.03 * np.random.default_rng(2).normal(size=75), jnp.float32)
problems = landscapes | {"three matrices": (product, small)}
RATES = [10.0**exponent for exponent in np.arange(-3.0, 0.1, 0.5)]
BUDGET = 3000


def count(values, level):
    """Gradients until the loss is below the level, infinite where it stays above."""
    below = np.asarray(values) < level
    return int(np.argmax(below)) + 1 if below.any() else np.inf


figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharey=True)
for axes, (name, (loss, start)) in zip(panels, problems.items(), strict=True):
    adam = [follow(optax.adam(rate), loss, start, BUDGET)[1] for rate in RATES]
    found = {
        "ogr()": follow(ogr, loss, start, BUDGET)[1],
        "parabolic_adam()": follow(parabolic_adam, loss, start, BUDGET)[1],
    }
    lowest = min(float(jnp.nanmin(values)) for values in [*adam, *found.values()])
    saddle = loss(jnp.zeros_like(start))
    level = saddle + 0.1 * (lowest - saddle)
    sweep = [count(values, level) for values in adam]
    axes.loglog(RATES, sweep, "o-", color=GREY, label="Adam")
    for label, values in found.items():
        axes.axhline(count(values, level), color=styles[label]["color"], lw=2, label=label)
    axes.set(title=name, xlabel="Adam's rate")
    numbers = ", ".join(f"{label} {count(values, level)}" for label, values in found.items())
    best = int(np.argmin(sweep))
    at_default = sweep[RATES.index(1e-3)]
    print(f"{name}: {numbers}; Adam {sweep[best]} at its best rate, {at_default} at 0.001")
panels[0].set(ylabel="gradients to leave the saddle")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# A rate as long as the whole landscape is wide leaves in a few steps, where the landscape is so
# kind; on a problem of which nothing is known, nobody would choose it. `python -m
# benchmarks.ogr_saddles` of the repository also has a rotated saddle in fifty dimensions and
# `optax.lbfgs()`.
