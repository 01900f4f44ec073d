# %% [markdown]
# # Scale out
#
# A small transformer is trained on a mesh of devices, with its batches, its parameters and the
# optimizer's state cut into pieces; it is saved half-way and resumed, on the same mesh to the bit,
# and on another one. Where there is one processor only, eight virtual devices are made of it; on
# GPUs and TPUs the mesh is what is there.

# %%
import pathlib
import pydoc_data.topics
import re

import jax

jax.config.update("jax_num_cpu_devices", 8)  # has no effect on GPUs and TPUs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import parabolic_optax as po

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100})

devices = jax.device_count()
across = 2 if devices % 2 == 0 else 1
mesh = jax.make_mesh((devices // across, across), ("data", "model"), (AxisType.Auto,) * 2)
print(f"{devices} devices of type {jax.devices()[0].platform}, as a mesh {dict(mesh.shape)}")

# %% [markdown]
# ## Text and model
#
# The text is the reference of the Python language, which every Python brings along; the last tenth
# is held out. The model predicts the next character.

# %%
WINDOW, BATCH, STEPS = 64, 32, 300
text = np.frombuffer("\n".join(pydoc_data.topics.topics.values()).encode("ascii", "replace"), "u1")
alphabet, codes = np.unique(text, return_inverse=True)
cut = len(codes) * 9 // 10


def windows(codes, starts):
    """Inputs and targets, each [number of starts, WINDOW]."""
    rows = codes[starts[..., None] + np.arange(WINDOW + 1)].astype(np.int32)
    return rows[..., :-1], rows[..., 1:]


starts = np.random.default_rng(0).integers(0, cut - WINDOW - 1, (STEPS, BATCH))
batches = windows(codes[:cut], starts)
held_out = windows(codes[cut:], np.arange(0, len(codes) - cut - WINDOW - 1, 4 * WINDOW)[:256])


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.widen = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.widen(self.norm_mlp(x))))


class Transformer(nnx.Module):
    def __init__(self, width, depth, rngs):
        self.characters = nnx.Linear(len(alphabet), width, use_bias=False, rngs=rngs)
        self.places = nnx.Embed(WINDOW, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, rngs) for _ in range(depth))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, len(alphabet), rngs=rngs)

    def __call__(self, x):
        # A product with one-hot rows: on GPUs, the gradient of a lookup adds in any order.
        x = self.characters(jax.nn.one_hot(x, len(alphabet))) + self.places(jnp.arange(WINDOW))
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


graphdef, params = nnx.split(Transformer(64, 2, nnx.Rngs(0)), nnx.Param)
params = nnx.to_pure_dict(params)


def loss_fn(params, inputs, targets):
    logits = nnx.merge(graphdef, params)(inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


count = sum(leaf.size for leaf in jax.tree.leaves(params))
print(f"{len(text):,} characters of {len(alphabet)} kinds, {count:,} parameters")

# %% [markdown]
# ## Cut into pieces
#
# Batches are cut along the axis `data` of the mesh, matrices along `model`. The optimizer needs
# not be told: its buffers are made from the parameters and are cut like them, and what remains are
# a few numbers per tensor.


# %%
def placement(mesh):
    """Sharding of a leaf: its last axis over `model`, where there are at least two axes."""

    def place(leaf):
        divides = leaf.ndim > 1 and leaf.shape[-1] % mesh.shape["model"] == 0
        return NamedSharding(mesh, P(*(None,) * (leaf.ndim - 1), "model") if divides else P())

    return place


params = jax.device_put(params, jax.tree.map(placement(mesh), params))
optimizer = po.parabolic_adam()
state = optimizer.init(params)


def bytes_of(tree, whole):
    """Bytes of a tree, or of the part that one device holds."""
    shapes = [x.shape if whole else x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(tree)]
    sizes = [leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]
    return sum(int(np.prod(shape)) * size for shape, size in zip(shapes, sizes, strict=True))


for name, tree in {"parameters": params, "optimizer state": state}.items():
    whole, piece = bytes_of(tree, True), bytes_of(tree, False)
    print(f"{name:15} {whole:9,} bytes, on each device {piece:9,}: {piece / whole:.0%}")

# %%
batch = jax.device_put(batches[0][0], NamedSharding(mesh, P("data")))
kernel = params["blocks"][0]["widen"]["kernel"]
# Adam's mean of the gradients of this kernel, a leaf of the state.
mean = optax.tree.get(state, "mu")["blocks"][0]["widen"]["kernel"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
shown = {"batch": batch, "a kernel": kernel, "its mean of gradients": mean}
for axes, (name, array) in zip(panels, shown.items(), strict=True):
    holders = {}
    for device, index in array.sharding.devices_indices_map(array.shape).items():
        corners = tuple(part.indices(n)[:2] for part, n in zip(index, array.shape, strict=True))
        holders.setdefault(corners, []).append(str(device.id))
    for number, (((top, bottom), (left, right)), ids) in enumerate(holders.items()):
        size, color = (right - left, bottom - top), plt.cm.Pastel1(number)
        axes.add_patch(plt.Rectangle((left, top), *size, facecolor=color, edgecolor="white"))
        axes.text((left + right) / 2, (top + bottom) / 2, ", ".join(ids), ha="center", va="center")
    axes.set(title=f"{name}, {array.shape[0]} × {array.shape[1]}")
    axes.set(xlim=(0, array.shape[1]), ylim=(array.shape[0], 0), xlabel="columns", ylabel="rows")
figure.suptitle("Which devices hold what")
plt.show()

# %% [markdown]
# ## What is sent
#
# The program that was compiled for the update says what it sends between devices: the slopes of
# all tensors in one piece or, in the steps of a long run that take no sample, the squares of the
# gradients alone. The gradients' own sum over `data` belongs to the training step,
# whatever the optimizer.


# %%
def traffic(compiled):
    """Number and bytes of the transfers between devices in a compiled program, by kind."""
    sent = {}
    pattern = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\("
    for shapes, kind in re.findall(pattern, compiled.as_text().replace("-start(", "(")):
        items = re.findall(r"[a-z](\d+)\[([\d,]*)\]", shapes)
        each = [int(bits) // 8 * np.prod([int(n) for n in dims.split(",") if n] or [1])
                for bits, dims in items]  # fmt: skip
        number, total = sent.get(kind, (0, 0))
        sent[kind] = number + 1, total + int(sum(each))
    return sent or "nothing"


gradients = jax.tree.map(jnp.zeros_like, params)
print("update:", traffic(jax.jit(optimizer.update).lower(gradients, state, params).compile()))


@jax.jit
def train_step(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
    updates, state = optimizer.update(grads, state, params)
    log = {"loss": loss, "step_size": po.metrics(state)["step_size"]}
    return optax.apply_updates(params, updates), state, log


cut_batch = jax.device_put([b[0] for b in batches], NamedSharding(mesh, P("data")))
print("training step:", traffic(train_step.lower(params, state, cut_batch).compile()))

# %% [markdown]
# ## Train, save, resume
#
# `train` is a plain loop. Half-way, Orbax saves parameters and state; it writes every piece from
# the device that holds it. The first run goes on to the end.


# %%
def train(params, state, steps, mesh):
    """Parameters and state after the steps, and what was logged at each."""
    logs = []
    for step in steps:
        batch = jax.device_put([b[step] for b in batches], NamedSharding(mesh, P("data")))
        params, state, log = train_step(params, state, batch)
        logs.append(jax.device_get(log))
    return params, state, {name: np.array([log[name] for log in logs]) for name in logs[0]}


HALF = STEPS // 2
first, second = range(HALF), range(HALF, STEPS)
half = train(params, state, first, mesh)
folder = pathlib.Path("checkpoint").absolute()
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, half[:2], force=True)
uninterrupted = train(*half[:2], second, mesh)
evaluate = jax.jit(loss_fn)
for name, values in {
    "last parameters": uninterrupted[0],
    "averaged": po.eval_params(uninterrupted[1], uninterrupted[0]),
}.items():
    print(f"held-out loss after {STEPS} steps, {name}: {evaluate(values, *held_out):.3f}")

# %% [markdown]
# To resume, Orbax is told shapes, types and places of what it should return; they come from
# `init`, without computing anything. The count of samples, the means and the step sizes are all in
# the state, so that nothing else has to be kept.


# %%
def resume(mesh):
    """Parameters and state from the checkpoint, cut for the mesh."""

    def begin():
        fresh = nnx.to_pure_dict(nnx.state(Transformer(64, 2, nnx.Rngs(0)), nnx.Param))
        return fresh, optimizer.init(fresh)

    place = placement(mesh)
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf)),
        jax.eval_shape(begin),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, target)


resumed = train(*resume(mesh), second, mesh)
other_mesh = jax.make_mesh((devices, 1), ("data", "model"), (AxisType.Auto,) * 2)
elsewhere = train(*resume(other_mesh), second, other_mesh)


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def deviation(a, b):
    """Largest difference of any parameter."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return max(np.abs(x - y).max() for x, y in pairs)


for name, run, on in [
    ("the same mesh", resumed, mesh),
    ("another mesh", elsewhere, other_mesh),
]:
    print(
        f"resumed on {name} {dict(on.shape)}: equal to the uninterrupted run to the bit:", end=" "
    )
    print(same_bits(run[:2], uninterrupted[:2]), end=", ")
    print(f"largest difference of a parameter {deviation(run[0], uninterrupted[0]):.1e}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for axes, name in [(left, "loss"), (right, "step_size")]:
    for steps, run, color, width, label in [
        (first, half, GREY, 1.5, "before the checkpoint"),
        (second, uninterrupted, BLUE, 4.0, "uninterrupted"),
        (second, resumed, ORANGE, 1.0, "resumed"),
    ]:
        axes.plot(np.array(steps) + 1, run[2][name], color=color, lw=width, label=label)
    axes.axvline(HALF + 0.5, color="k", lw=0.8, ls=":")
    axes.set(xlabel="step")
left.set(title="Training loss per character", ylabel="nats")
right.set(title="Step size that was found", yscale="log")
right.legend(frameon=False)
plt.show()
