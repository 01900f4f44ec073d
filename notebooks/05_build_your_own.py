# %% [markdown]
# # Build your own
#
# Every optimizer of the package is an `optax.chain` of four small links. Each takes what the link
# before it returned:
#
# | link | takes | returns |
# |---|---|---|
# | direction tracker | gradients, parameters | `Sample`: base step, slope, position |
# | curvature estimator | `Sample` | `Parabola`: adds curvature, offset to the extremum, signal |
# | saddle sign-flip | `Parabola` | `Parabola` |
# | step-size rule | `Parabola` | updates |
#
# This notebook assembles a new method, writes a link that was not there, and then a step-size rule
# of its own, and trains all of them beside `parabolic_adam()` on handwritten digits.

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import parabolic_optax as po

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})

# %% [markdown]
# ## What a link sees
#
# Links can be run alone. Here the parameters have moved from (1, −2) to (1, −5), and the gradient
# there is (4, 2): the loss falls in the direction they move, so the slope is negative, and the
# estimator puts the extremum ahead by turning the curvature negative.

# %%
tracker = po.track_displacement(optax.identity(), tail_power=None)
estimator = po.estimate_uncentred()
start, now = jnp.array([1.0, -2.0]), jnp.array([1.0, -5.0])
tracked, estimated = tracker.init(start), estimator.init(start)
for params, gradient in [(start, jnp.array([1.0, 0.5])), (now, jnp.array([4.0, 2.0]))]:
    sample, tracked = tracker.update(gradient, tracked, params)
    parabola, estimated = estimator.update(sample, estimated, params)
print(f"slope {sample.slope[0]:.2f} at position {sample.position[0]:.2f}")
print(f"curvature {parabola.curvature[0]:.2f}, signal {parabola.signal[0]:.2f}")
print("the base step, downhill:", sample.update)

# %% [markdown]
# ## A new method in four lines
#
# Any optax direction that points like the gradient can be the base. This one is momentum, scaled to
# unit length over the whole model, with one step size for all of it.


# %%
def unit_momentum():
    base = optax.chain(optax.trace(0.9), optax.normalize_by_update_norm())
    return optax.chain(
        po.track_displacement(base, per="global"),
        po.estimate_uncentred(per="global"),
        po.flip_saddles(),
        po.step_multiplicative(per="global"),
    )


# %% [markdown]
# ## A new link
#
# The step-size rule follows the signal however weak it is. A link in front of it that ignores weak
# signals is a function from `Parabola` to `Parabola`; `optax.stateless` makes a transformation of
# it.


# %%
def ignore_weak(level):
    """Takes signals below the level for noise."""

    def ignore(parabola, params):
        weak = jnp.abs(parabola.signal) < level
        return parabola._replace(signal=jnp.where(weak, 0.0, parabola.signal))

    return optax.stateless(ignore)


def deliberate_adam():
    return optax.chain(
        po.track_displacement(optax.scale_by_adam()),
        po.estimate_uncentred(),
        po.flip_saddles(),
        ignore_weak(0.3),
        po.step_multiplicative(),
    )


# %% [markdown]
# ## A new step-size rule
#
# A rule has a state and returns updates. This one only looks at the sign of the offset, as Rprop
# does with gradients: the extremum lies ahead, then a fixed factor longer, otherwise a fixed factor
# shorter. With the two methods `readings` and `restart` its state is found by `po.metrics` and
# `po.reset`. A step whose gradient is not usable must leave the state as it is.


# %%
class SignState(NamedTuple):
    step_size: jax.Array

    def readings(self):
        return {"step_size": self.step_size}

    def restart(self):
        return self


def step_by_sign(longer=1.1, shorter=0.95, initial_step=1e-6):
    def init(params):
        return SignState(jnp.full([1], initial_step))

    def update(parabola, state, params=None):
        factor = jnp.where(parabola.offset > 0.0, longer, shorter)
        factor = jnp.where(parabola.sample.usable & (parabola.offset != 0.0), factor, 1.0)
        updates = optax.tree.scale(state.step_size[0], parabola.sample.update)
        return updates, SignState(state.step_size * factor)

    return optax.GradientTransformation(init, update)


def rprop_like():
    return optax.chain(
        po.track_displacement(optax.scale_by_adam(), per="global"),
        po.estimate_uncentred(per="global"),
        po.flip_saddles(),
        step_by_sign(),
    )


# %% [markdown]
# ## All of them at work
#
# A perceptron, 1,347 images for training, 450 held out, the same start and batches for all, and
# three seeds. What is judged are the averaged parameters.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.data))
images = jnp.asarray(digits.data[order] / 16.0, jnp.float32)
labels = jnp.asarray(digits.target[order])
STEPS, BATCH, HELD_OUT = 600, 64, 450


def loss_fn(params, images, labels):
    *hidden, (w, b) = params
    for weights, bias in hidden:
        images = jax.nn.relu(images @ weights + bias)
    logits = images @ w + b
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(optimizer, per, seed):
    """Held-out loss of the averaged parameters, and step sizes, of every step."""
    rng = np.random.default_rng(seed)
    params = [
        (jnp.asarray(rng.normal(0, (2 / n) ** 0.5, (n, m)), jnp.float32), jnp.zeros(m))
        for n, m in [(64, 64), (64, 64), (64, 10)]
    ]
    batches = jnp.asarray(rng.integers(HELD_OUT, len(images), (STEPS, BATCH)))

    def step(carry, rows):
        params, state = carry
        grads = jax.grad(loss_fn)(params, images[rows], labels[rows])
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        averaged = po.eval_params(state, params)
        held_out = loss_fn(averaged, images[:HELD_OUT], labels[:HELD_OUT])
        return (params, state), (held_out, po.metrics(state, per)["step_size"])

    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), batches)[1])(params)


methods = {
    "parabolic_adam()": (po.parabolic_adam(), "tensor"),
    "unit_momentum()": (unit_momentum(), "global"),
    "deliberate_adam()": (deliberate_adam(), "tensor"),
    "rprop_like()": (rprop_like(), "global"),
}
runs = {
    name: [train(optimizer, per, seed) for seed in range(3)]
    for name, (optimizer, per) in methods.items()
}

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for (name, curves), color in zip(runs.items(), plt.cm.tab10.colors, strict=False):
    losses, sizes = (np.stack(values) for values in zip(*curves, strict=True))
    left.semilogy(np.median(losses, axis=0), color=color, label=name)
    right.semilogy(np.median(sizes, axis=0), color=color)
    print(f"{name:18} held-out loss at the end, three seeds:", losses[:, -1].round(4))
left.legend(frameon=False)
left.set(title="Held-out loss, median of three seeds", xlabel="step")
right.set(title="Step size", xlabel="step")
plt.show()

# %% [markdown]
# Since every one of them is an optax transformation, they go behind clipping, into `optax.masked`
# or `nnx.Optimizer`, like any other. To keep a link, give its arithmetic a name of its own, test it
# against a plain loop, and try it on more than one problem: `python -m benchmarks.run`.
