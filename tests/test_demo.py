import json
import math

import pytest

pytest.importorskip("flax")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from parabolic_optax._demo import cli, optimizers


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    arguments = ["--data", "digits", "--optimizers", "parabolic_adam", "adam@1e-3"]
    code = cli.main([*arguments, "--steps", "40", "--out", str(folder)])
    return code, folder


def test_demo_leaves_a_record_and_a_picture(demo):
    code, folder = demo
    assert code == 0
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "record.json").read_text("utf-8"))
    assert record["config"]["steps"] == 40
    assert record["environment"]["versions"]["jax"]


def test_demo_records_the_numbers(demo):
    record = json.loads((demo[1] / "record.json").read_text("utf-8"))
    ours, adam = record["runs"]
    assert [ours["optimizer"], adam["optimizer"]] == ["parabolic_adam", "adam@1e-3"]
    for run in (ours, adam):
        assert run["complete"]
        assert run["steps_done"] == len(run["curves"]["loss"]) == 40
        for name in ("train_loss", "held_out_loss", "held_out_accuracy"):
            assert math.isfinite(run["final"][name])
        assert 0.0 <= run["final"]["held_out_accuracy"] <= 1.0
    assert ours["final"]["step_size"] > 0.0
    assert math.isfinite(ours["final"]["curvature"])
    assert ours["rate"] is None
    assert adam["rate"] == 1e-3
    assert ours["curves"]["loss"][0] == pytest.approx(adam["curves"]["loss"][0], rel=1e-4)


@pytest.mark.parametrize("name", ["parabolic_lbfgs", "adam@fast", "adam@-1", "sgd@0.1"])
def test_unknown_optimizer_lists_the_known(name, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--optimizers", name])
    assert exit_info.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert name in message
    assert all(known in message for known in optimizers.OURS)


@pytest.mark.parametrize("steps", ["0", "-3", "many"])
def test_impossible_number_of_steps(steps, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main([f"--steps={steps}"])
    assert exit_info.value.code == 2
    assert "whole number" in capsys.readouterr().err


def test_batch_larger_than_the_data(capsys):
    assert cli.main(["--batch", "1000000"]) == 2
    assert "rows" in capsys.readouterr().err
