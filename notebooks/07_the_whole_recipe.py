# %% [markdown]
# # The whole recipe: a convolutional network with batch normalisation
#
# What a training script around `parabolic_adamw` holds beside the loop: clipping, a log, saving
# and resuming, averaged parameters with batch statistics of their own, and a decay at the end for
# those who want to keep the last parameters. The data are the 1,797 digits of scikit-learn, 450 of
# them held out.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx, serialization
from sklearn.datasets import load_digits

import parabolic_optax as po

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.data))
images = jnp.asarray(digits.images[order, :, :, None] / 16.0, jnp.float32)
labels = jnp.asarray(digits.target[order], jnp.int32)
held_out, train = (images[:450], labels[:450]), (images[450:], labels[450:])

STEPS, BATCH = 400, 64
batches = np.random.default_rng(1).integers(0, len(train[0]), (STEPS, BATCH))


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.readout = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.relu(self.second(x))
        return self.readout(x.reshape(len(x), -1))


def loss_fn(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


# %% [markdown]
# ## The loop
#
# Clipping stands in front of the optimizer. There is no rate and no schedule. The log reads the
# state every hundred steps, and not in every one, since reading it waits for the device.


# %%
def make_optimizer(multiplier=1.0):
    return optax.chain(optax.clip_by_global_norm(1.0), po.parabolic_adamw(multiplier))


@nnx.jit
def train_step(model, optimizer, images, labels):
    loss, grads = nnx.value_and_grad(loss_fn)(model, images, labels)
    optimizer.update(model, grads)
    return loss


def train_from(model, optimizer, first, last):
    for step in range(first, last):
        rows = batches[step]
        loss = train_step(model, optimizer, train[0][rows], train[1][rows])
        if (step + 1) % 100 == 0:
            log = {k: float(v) for k, v in po.metrics(optimizer.opt_state).items() if "/" not in k}
            print(f"step {step + 1}: loss {loss:.4f}, step size {log['step_size']:.1e}", end=", ")
            print(f"signal {log['signal']:+.2f}, weight decay {log['weight_decay']:.2f}")


model = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, make_optimizer(), wrt=nnx.Param)
train_from(model, optimizer, 0, 200)

# %% [markdown]
# ## Saved and resumed
#
# All that has to be kept is in model and optimizer. A new pair, made in the same way, takes it over
# and goes on.

# %%
saved = serialization.to_bytes(nnx.to_pure_dict(nnx.state((model, optimizer))))
print(f"{len(saved) / 1e3:.0f} kB")

model = Network(nnx.Rngs(1))
optimizer = nnx.Optimizer(model, make_optimizer(), wrt=nnx.Param)
state = nnx.state((model, optimizer))
nnx.replace_by_pure_dict(state, serialization.from_bytes(nnx.to_pure_dict(state), saved))
nnx.update((model, optimizer), state)
train_from(model, optimizer, 200, STEPS)

# %% [markdown]
# ## Averaged parameters and their batch statistics
#
# `po.eval_params` averages the parameters over the last tenth of the run. The running means of a
# batch normalisation belong to the parameters that made them, so they are made anew: a few training
# batches in training mode, with cumulative means in place of running ones.


# %%
def averaged(model, optimizer):
    copy = nnx.clone(model)
    nnx.update(copy, po.eval_params(optimizer.opt_state, nnx.state(model, nnx.Param)))
    return copy


def with_own_statistics(model, batches):
    model.train()
    for number, rows in enumerate(batches):
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = number / (number + 1)
        model(train[0][rows])
    model.eval()
    return model


def report(name, model):
    model.eval()
    accuracy = jnp.mean(jnp.argmax(model(held_out[0]), -1) == held_out[1])
    loss = float(loss_fn(model, *held_out))
    print(f"{name}: held-out loss {loss:.4f}, accuracy {accuracy:.1%}")
    return loss


losses = {
    "last parameters": report("last parameters", nnx.clone(model)),
    "averaged, old statistics": report("averaged, old statistics", averaged(model, optimizer)),
    "averaged, own statistics": report(
        "averaged, own statistics", with_own_statistics(averaged(model, optimizer), batches[:20])
    ),
}

# %% [markdown]
# ## A decay at the end
#
# Who knows the length of the run and wants the last parameters lets the multiplier fall from 1 to 0
# over its last tenth. A constant multiplier would be made up for, and a warm-up works against the
# search.

# %%
decay = optax.linear_schedule(1.0, 0.0, STEPS // 10, STEPS - STEPS // 10)
model = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, make_optimizer(decay), wrt=nnx.Param)
train_from(model, optimizer, 0, STEPS)
losses["last parameters after a decay"] = report("last parameters after a decay", model)

figure, axes = plt.subplots(figsize=(6, 2.2), layout="constrained")
axes.barh(list(losses), list(losses.values()), color="#0072B2")
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
axes.set(xlabel="held-out loss")
plt.show()
