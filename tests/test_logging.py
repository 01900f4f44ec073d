"""One-line recipes that hand ``po.metrics(state)`` to a logger; each is read back."""

import csv
import struct

import jax.numpy as jnp
import optax
import pytest

import parabolic_optax as po

STEPS = 5


@pytest.fixture
def readings():
    """What a loop would log: the readings after every step."""
    optimizer = po.parabolic_adam()
    params = {"w": jnp.array([3.0, -1.0]), "b": jnp.array(0.5)}
    state = optimizer.init(params)
    result = []
    for _ in range(STEPS):
        grads = {"w": params["w"] - jnp.array([1.0, 2.0]), "b": 3.0 * (params["b"] + 1.0)}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        result.append(po.metrics(state))
    return result


def test_csv(readings, tmp_path):
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *readings[0]])
        writer.writeheader()
        for step, metrics in enumerate(readings):
            writer.writerow({"step": step} | metrics)

    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    for row, metrics in zip(rows, readings, strict=True):
        assert {name: float(row[name]) for name in metrics} == pytest.approx(_floats(metrics))


def test_tensorboard(readings, tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    writer = tensorboard.SummaryWriter(str(tmp_path))
    for step, metrics in enumerate(readings):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
    writer.close()

    (path,) = tmp_path.iterdir()
    logged = {}
    for event in _events(path.read_bytes()):
        for value in event.summary.value:
            logged[value.tag, event.step] = value.simple_value
    expected = {
        (name, step): value
        for step, metrics in enumerate(readings)
        for name, value in _floats(metrics).items()
    }
    assert logged == pytest.approx(expected)


def test_weights_and_biases_offline(readings, tmp_path):
    wandb = pytest.importorskip("wandb")
    with wandb.init(project="parabolic", mode="offline", dir=tmp_path) as run:
        for metrics in readings:
            run.log(metrics)
        summary = dict(run.summary)

    assert summary["_step"] == STEPS - 1
    assert {name: summary[name] for name in readings[-1]} == pytest.approx(_floats(readings[-1]))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def _floats(metrics):
    return {name: float(value) for name, value in metrics.items()}


def _events(content):
    """The events of a TensorBoard file: each has its length and a checksum before, one behind."""
    from tensorboardX.proto.event_pb2 import Event

    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
