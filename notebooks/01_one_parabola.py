# %% [markdown]
# # One parabola
#
# Training computes a gradient at every step. Along a line through the parameters each gradient is
# a *slope* and each point a *position*. Two such pairs determine a parabola, many pairs fit one,
# and a parabola knows where its extremum lies. This notebook shows the idea in one dimension, lets
# it find a step size in two, and shows what noise does to the fit.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import parabolic_optax as po

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})

# %% [markdown]
# ## Slopes and positions
#
# A function of one variable, and its slope at four places on the way down. No function value is
# used: in the plane of position and slope, a parabola is a straight line. The line's gradient is
# the curvature, and where it crosses zero lies the extremum.


# %%
def valley(x):
    return jnp.log(jnp.cosh(x - 1.5)) + 0.1 * x


positions = jnp.array([-0.1, 0.4, 0.8, 1.1])
slopes = jax.vmap(jax.grad(valley))(positions)
curvature, intercept = np.polyfit(positions, slopes, 1)
extremum = -intercept / curvature

grid = jnp.linspace(-1.0, 3.5, 300)
# The fit fixes the parabola up to its height; it is drawn through the last point.
parabola = curvature / 2 * ((grid - extremum) ** 2 - (positions[-1] - extremum) ** 2)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.plot(grid, valley(grid), color=GREY, label="function")
left.plot(grid, valley(positions[-1]) + parabola, color=BLUE, ls="--", label="parabola")
for x, s in zip(positions, slopes, strict=True):
    left.plot([x - 0.1, x + 0.1], valley(x) + s * np.array([-0.1, 0.1]), color=ORANGE, lw=4)
left.set(title="A function, four slopes, the parabola", xlabel="position", ylabel="loss")
left.set(ylim=(-0.2, 2.2))
left.annotate("extremum", (extremum, 1.9), (4, 0), textcoords="offset points", color=BLUE)
left.legend(frameon=False, loc=(0.2, 0.82))
right.plot(positions, slopes, "o", color=ORANGE)
right.plot(grid, curvature * (grid - extremum), color=BLUE, ls="--")
right.axhline(0.0, color=GREY, lw=0.8)
right.set(title="The same slopes on a straight line", xlabel="position", ylabel="slope")
for axes in (left, right):
    axes.axvline(extremum, color=BLUE, lw=0.8)
plt.show()

minimum = grid[jnp.argmin(valley(grid))]
print(f"curvature {curvature:.2f}, extremum {extremum:.2f}, minimum of the function {minimum:.2f}")

# %% [markdown]
# The extremum is not the minimum, since the function is no parabola, but it lies ahead and tells
# how far. A new gradient there improves the fit, and so on.
#
# ## A step size from it
#
# In many dimensions one direction says most about whether the *steps* are right: the displacement
# of the parameters from their own running mean. If the loss still falls along it, the parameters
# move too slowly; if it rises, they went too far, and the mean was the better place. `parabolic`
# makes the steps of any optax direction longer or shorter accordingly. The `signal` is the mean
# slope over its mean size.


# %%
def bent_valley(params):
    x, y = params
    return (1.0 - x) ** 2 + 20.0 * (y - x**2) ** 2


def descend(optimizer, loss, start, steps):
    """Positions and readings of a run."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, po.metrics(state))

    return jax.lax.scan(step, (start, optimizer.init(start)), None, steps)[1]


start = jnp.array([-1.3, 1.0])
runs = {
    name: descend(optimizer, bent_valley, start, 600)
    for name, optimizer in {
        "parabolic_adam()": po.parabolic_adam(),
        "parabolic_sgd()": po.parabolic_sgd(),
    }.items()
}

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
x, y = jnp.meshgrid(jnp.linspace(-1.7, 1.6, 120), jnp.linspace(-0.6, 2.2, 120))
left.contour(x, y, jnp.log(bent_valley((x, y)) + 0.1), 9, colors="#d0d0d0", linewidths=0.7)
for (name, (path, readings)), color in zip(runs.items(), (BLUE, ORANGE), strict=True):
    path = jnp.vstack([start, path])
    left.plot(*path.T, color=color, lw=1.6, label=name)
    middle.semilogy(readings["step_size"], color=color)
    right.plot(readings["signal"], color=color)
left.plot(1.0, 1.0, "k*", ms=10)
left.legend(frameon=False)
right.axhline(0.0, color=GREY, lw=0.8)
left.set(title="Paths in a bent valley")
middle.set(title="Step size", xlabel="step")
right.set(title="Signal: below 0, longer steps", xlabel="step", ylim=(-1, 1))
plt.show()

for name, (path, readings) in runs.items():
    longest = readings["step_size"].max() / readings["step_size"][0]
    print(
        f"{name}: loss {bent_valley(path[-1]):.1e}, step size up to {longest:.0f} times the first"
    )

# %% [markdown]
# ## Phantom curvature
#
# Gradients of minibatches carry noise, and the steps carry it on into the parameters. A fit that
# subtracts the means of slope and position, cov(g, θ)/var(θ), then sees a relation between the two
# that the loss does not have. The extreme case shows it best: gradients that are *nothing but*
# noise, so that the true curvature is zero. The mean slope along the displacement, as it is used
# here, is not fooled, because position and direction were fixed before the noise was drawn.

# %%
FORGET, STEPS, WALKS = 0.05, 3000, 200
rates = jnp.geomspace(1e-2, 1.0, 7)
tracker = po.track_displacement(optax.identity())


def walk(key, rate):
    """Covariance and variance, slope and position, each a mean over a walk of pure noise."""

    def step(carry, noise):
        theta, (g, p, gp, pp), state = carry
        sample, state = tracker.update(noise, state, theta)
        pairs = ((g, noise), (p, theta), (gp, noise * theta), (pp, theta**2))
        g, p, gp, pp = (mean + FORGET * (value - mean) for mean, value in pairs)
        moments = gp - g * p, pp - p**2, sample.slope[0], sample.position[0]
        return (theta + rate * sample.update, (g, p, gp, pp), state), moments

    theta, none = jnp.array(1.0), jnp.array(0.0)
    noises = jax.random.normal(key, (STEPS,))
    first = (theta, (none, theta, none, theta**2), tracker.init(theta))
    moments = jax.lax.scan(step, first, noises)[1]
    return tuple(moment[STEPS // 2 :].mean() for moment in moments)


keys = jax.random.split(jax.random.key(0), (len(rates), WALKS))
covariance, variance, slope, position = jax.jit(jax.vmap(jax.vmap(walk, (0, None))))(keys, rates)
# Ratios of means over all walks: a mean of ratios has a bias of its own.
centred, uncentred = (
    (top / bottom.mean(axis=1, keepdims=True))
    for top, bottom in [(covariance, variance), (slope, position)]
)

figure, axes = plt.subplots(figsize=(6.5, 3.8))
for values, color, name in [
    (centred, ORANGE, "centred: covariance over variance"),
    (uncentred, BLUE, "uncentred: along the displacement"),
]:
    error = values.std(axis=1) / WALKS**0.5
    axes.errorbar(rates, values.mean(axis=1), error, fmt="o", color=color, label=name)
axes.plot(rates, FORGET / rates, color=ORANGE, lw=0.8, label="β / η")
axes.axhline(0.0, color=GREY, lw=0.8, label="truth")
axes.set(xscale="log", xlabel="step size η", ylabel="curvature read")
axes.set_yscale("symlog", linthresh=0.01)
axes.set_ylim(-0.3, 15.0)
axes.legend(frameon=False, fontsize=9)
axes.set_title("The true curvature is zero")
plt.show()

ratio = centred.mean(axis=1) * rates / FORGET
print("centred reading in units of β/η:", *(f"{value:.2f}" for value in ratio))
deviation = uncentred.mean(axis=1) / (uncentred.std(axis=1) / WALKS**0.5)
print("uncentred reading in standard errors:", *(f"{value:+.1f}" for value in deviation))
