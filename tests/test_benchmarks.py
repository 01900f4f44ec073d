"""The instrument: problems, tuner, resuming, and the arithmetic of the report."""

import importlib
import itertools
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import alarm, data, optimizers, records, report, run, scores, workloads
from benchmarks.training import PIECES, Trainer, piece_length
from benchmarks.tuning import climb, tune
from benchmarks.workloads import __main__ as table_of_problems

ROOT = pathlib.Path(__file__).parent.parent
# Compiling these takes most of the time of all; tables are many and alike.
COSTLY = (
    "bible",
    "continued",
    "adapted",
    "continual",
    "austen",
    "digits_vit",
    "cart_pole",
    "resnet",
    "cnn",
    "flights",
    "poisson",
    "autoencoder",
    "code",
    "denoiser",
    "wave",
    "weather",
)


def load(name):
    try:
        return workloads.load(name)
    except (data.MissingDataError, ModuleNotFoundError) as error:
        pytest.skip(str(error))


TABLES = {*workloads.SUITES["development-tables"], *workloads.SUITES["audit-tables"]}


def problems():
    for name in workloads.MAKERS:
        costly = any(part in name for part in COSTLY) or (name.endswith("_mlp") and name in TABLES)
        yield pytest.param(name, marks=pytest.mark.slow if costly else (), id=name)


@pytest.mark.parametrize("name", list(problems()))
def test_loss_and_gradient_are_finite_at_the_start(name):
    workload = load(name)
    assert workload.name == name
    rows = {len(column) for column in jax.tree.leaves(workload.train)}
    assert len(rows) == 1
    assert rows.pop() >= workload.batch
    assert piece_length(workload.steps) * PIECES >= workload.steps
    params = workload.init(jax.random.key(0))
    batch = jax.tree.map(lambda column: jnp.asarray(column[: workload.batch]), workload.train)
    loss, grads = jax.jit(jax.value_and_grad(workload.loss))(params, batch, jax.random.key(1))
    assert loss.shape == ()
    assert jnp.isfinite(loss)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(grads))
    assert any(bool(jnp.any(leaf != 0.0)) for leaf in jax.tree.leaves(grads))
    held_out = jax.tree.map(lambda column: jnp.asarray(column), workload.held_out)
    assert float(jax.jit(workload.held_out_loss)(params, held_out)) > 0.0


def test_development_confirmation_and_audit_share_nothing():
    def sets(prefix):
        names = {
            n for suite, ns in workloads.SUITES.items() if suite.startswith(prefix) for n in ns
        }
        return {name.partition("@")[0].partition("_")[0] for name in names}

    names = ("development", "confirmation", "audit")
    for one, other in itertools.combinations(names, 2):
        assert sets(one).isdisjoint(sets(other))
    for first, second in itertools.pairwise(run.SUITES[name] for name in names):
        assert first.first_seed + 3 * first.seeds <= second.first_seed


def test_scattered_workloads_get_more_seeds():
    suite = run.SUITES["confirmation"]
    assert set(suite.scattered) < set(workloads.SUITES["confirmation"])
    assert suite.seeds_of("digits_mlp") == list(range(1000, 1009))
    assert suite.seeds_of("austen_gru") == [1000, 1001, 1002]
    assert suite.seeds_of("digits_mlp", 2) == [1000, 1001]


def test_every_workload_is_in_a_suite():
    named = {name.partition("@")[0] for names in workloads.SUITES.values() for name in names}
    assert named == set(workloads.MAKERS)


def test_table_of_problems(monkeypatch, capsys):
    pytest.importorskip("sklearn")

    def missing(name):
        raise data.MissingDataError("not installed")

    monkeypatch.setitem(workloads.SUITES, "smoke", ("diabetes_linear",))
    assert table_of_problems.main(["smoke"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| problem | rows | held out | parameters | batch | steps | epochs |"
    # 442 patients, ten columns and a bias; 64 rows in each of 100 steps.
    assert row == "| diabetes_linear | 342 | 100 | 11 | 64 | 100 | 18.7 |"
    monkeypatch.setattr(workloads, "load", missing)
    assert table_of_problems.main(["smoke"]) == 1
    assert capsys.readouterr().err == "diabetes_linear: not installed\n"
    with pytest.raises(SystemExit):
        table_of_problems.main(["nonsense"])
    assert "unknown suite 'nonsense'; known are smoke, " in capsys.readouterr().err


def test_variations():
    pytest.importorskip("sklearn")
    base = workloads.load("diabetes_linear")
    varied = workloads.load("diabetes_linear@batch=16@horizon=4@init=0.5@loss=100")
    assert (varied.batch, varied.steps) == (16, 4 * base.steps)
    key, params = jax.random.key(3), varied.init(jax.random.key(2))
    np.testing.assert_allclose(
        params["layer0"]["kernel"], 0.5 * base.init(jax.random.key(2))["layer0"]["kernel"]
    )
    batch = jax.tree.map(lambda column: column[:8], base.train)
    assert varied.loss(params, batch, key) == pytest.approx(100 * base.loss(params, batch, key))
    assert varied.held_out_loss(params, base.held_out) == pytest.approx(
        float(base.held_out_loss(params, base.held_out))
    )


def test_rows_in_order_are_taken_once():
    workload = load("digits_continual")
    trainer = Trainer(workload)
    batches = trainer._batches(seed=3)
    assert batches.shape == (workload.steps, workload.batch)
    assert np.array_equal(batches.ravel(), np.arange(len(workload.train[0])))
    with pytest.raises(ValueError, match="digits_continual@horizon=2 needs 76800 rows"):
        Trainer(workload.vary("horizon", 2))


def test_constants_of_ours():
    optimizer = optimizers.find("parabolic_adam+decay@initial_step=0.125@per=global")
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    state = optimizer.build(optimizer.setting, 100).init(params)
    assert optimizer.trace is not None
    assert optimizer.trace(state)["step_size"] == 0.125
    assert optimizers.find("parabolic_adam").build({}, 100).init(params) is not None
    with pytest.raises(ValueError, match="takes no constants"):
        optimizers.find("prodigy@eps=1")


def test_tuner_extends_the_grid_until_the_best_is_inside():
    measured = []

    def measure(rate):
        measured.append(rate)
        # Best at 16 for the parameters and at 32 for the readout; beyond 64 it diverges.
        if rate > 64.0:
            return {"last": math.inf, "readout": math.inf}
        return {"last": abs(math.log2(rate / 16)), "readout": abs(math.log2(rate / 32))}

    assert tune((1.0, 2.0, 4.0), ("last", "readout"), measure) == 16.0
    assert measured == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    assert tune((32.0, 64.0), ("last",), measure) == 16.0


def test_tuner_stops_where_more_is_always_better():
    assert tune((1.0, 2.0), ("last",), lambda rate: {"last": -rate}) == 2.0**9


def test_decays_climb_while_the_largest_is_the_best():
    measured = []

    def measure(decay):
        measured.append(decay)
        return abs(math.log10(max(decay, 1e-3)) - 0.1)

    climb((0.0, 0.01, 0.1), measure)
    assert measured == [0.0, 0.01, 0.1, 1.0, 10.0]


def test_tail_mean_is_the_mean_over_the_last_tenth():
    pytest.importorskip("sklearn")
    workload = workloads.load("diabetes_linear")
    optimizer = optimizers.find("adam_constant")
    transformation = optimizer.build({**optimizer.setting, "rate": 1e-2}, 40)
    params = workload.init(jax.random.key(0))
    state, expected = transformation.init(params), params
    for count in range(3):
        updates, state = transformation.update(params, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        weight = 10 / (count + 10)
        expected = jax.tree.map(lambda m, p, w=weight: (1 - w) * m + w * p, expected, params)
    assert optimizer.readout is not None
    for mean, wanted in zip(
        jax.tree.leaves(optimizer.readout(state, params)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(mean, wanted, rtol=1e-5)


def test_cosine_differs_from_constant_by_its_schedule_alone():
    pytest.importorskip("sklearn")
    trainer = Trainer(workloads.load("diabetes_linear"))
    runs = {}
    for name in ("sgd_constant", "sgd_cosine"):
        optimizer = optimizers.find(name)
        runs[name] = trainer.run(optimizer, {**optimizer.setting, "rate": 0.01}, seed=0)
    # One program for both; the warm-up makes the first steps shorter.
    assert len(trainer._programs) == 1
    first = {name: run.last[0] for name, run in runs.items()}
    assert first["sgd_constant"] < first["sgd_cosine"]


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_takes_steps(name):
    if "kron" in name:
        pytest.importorskip("psgdax")
    if "prism" in name:
        pytest.importorskip("rollfast")
    optimizer = optimizers.find(name)
    setting = {**optimizer.setting, **({"rate": 1e-3} if optimizer.rates else {})}
    result = Trainer(load("mnist1d_tanh")).run(optimizer, setting, seed=0)
    assert np.all(np.isfinite(result.last))
    assert result.train[-1] < result.train[0]


def stored_in(folder):
    return list(records.read(folder / "smoke.jsonl").values())


COMMAND = ("--suite", "smoke", "--workloads", "diabetes_linear", "--optimizers", "parabolic_sgd")


def test_command_line_runs_stores_and_resumes(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    arguments = [*COMMAND, "prodigy", "--results", str(tmp_path)]
    assert run.main(arguments) == 0
    stored = stored_in(tmp_path)
    assert [record["optimizer"] for record in stored] == ["parabolic_sgd", "prodigy"]
    ours = stored[0]
    assert ours["seeds"] == [0]
    assert ours["failure"] is None
    assert ours["every"] * len(ours["curves"]["readout"]) == ours["steps"] == 100
    assert set(ours["trace"]) == {"step_size", "curvature", "signal"}
    assert ours["readout"] == [ours["curves"]["readout"][-1]]
    assert ours["seconds"] > 0.0
    assert ours["compile_seconds"] > 0.0
    assert "jax" in ours["environment"]
    assert stored[1]["curves"]["readout"] != stored[1]["curves"]["last"]

    before = (tmp_path / "smoke.jsonl").read_bytes()
    assert run.main(arguments) == 0
    assert (tmp_path / "smoke.jsonl").read_bytes() == before
    assert run.main([*arguments, "--seeds", "2"]) == 0
    assert [record["seeds"] for record in stored_in(tmp_path)] == [[0, 1]] * 2

    capsys.readouterr()
    assert report.main(["--suite", "smoke", "--results", str(tmp_path), "--table"]) == 0
    assert "| diabetes_linear |" in capsys.readouterr().out
    assert report.main(["--suite", "smoke", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 4
    assert all(f"({name})" in printed for name in pictures)


def test_records_of_other_code_of_ours_are_run_again(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "smoke.jsonl"
    assert run.main([*COMMAND, "--results", str(tmp_path)]) == 0
    [record] = stored_in(tmp_path)
    path.write_text(json.dumps({**record, "source": "older", "last": [None]}) + "\n", "utf-8")
    assert run.main([*COMMAND, "--results", str(tmp_path)]) == 0
    assert stored_in(tmp_path)[0]["last"] == record["last"]


def test_a_method_that_raises_is_a_record(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")

    def broken(setting, steps):
        raise RuntimeError("made for other versions")

    peer = optimizers.OPTIMIZERS["prodigy"]._replace(build=broken)
    monkeypatch.setitem(optimizers.OPTIMIZERS, "prodigy", peer)
    arguments = ["--workloads", "diabetes_linear", "--optimizers", "prodigy"]
    assert run.main([*arguments, "--results", str(tmp_path)]) == 0
    [record] = stored_in(tmp_path)
    assert record["failure"] == "RuntimeError: made for other versions"
    assert report.failures(scores.Scores([record])) == (
        "- prodigy on diabetes_linear: RuntimeError: made for other versions"
    )


def test_timings_count_only_on_a_quiet_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    with records.alone(tmp_path) as first:
        with first() as undisturbed:
            assert undisturbed
        with records.alone(tmp_path), first() as undisturbed:
            assert not undisturbed
        with first() as undisturbed:
            assert undisturbed
        monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.1, 0.1))
        with first() as undisturbed:
            assert not undisturbed


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--workloads", "nonsense", "unknown workload 'nonsense'; known are attrition_mlp, "),
        ("--workloads", "digits_mlp", "'digits_mlp' is not in smoke, which has diabetes_linear"),
        ("--workloads", "diabetes_linear@width=3", "unknown variation 'width'; known are batch"),
        ("--optimizers", "nonsense", "unknown optimizer 'nonsense'; known are parabolic_adam, "),
    ],
)
def test_unknown_names_are_answered_by_the_known(option, name, message, capsys):
    with pytest.raises(SystemExit) as error:
        run.main([option, name])
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def record(workload, optimizer, kind, last, readout, *, curve=None, rate=None):
    setting = {} if rate is None else {"rate": rate, "weight_decay": 0.0}
    curve = curve or [float(np.median(readout))]
    return {
        "workload": workload,
        "optimizer": optimizer,
        "kind": kind,
        "setting": setting,
        "seeds": [0, 1, 2],
        "steps": 10 * len(curve),
        "every": 10,
        "failure": None,
        "last": last,
        "readout": readout,
        "curves": {"last": curve, "readout": curve},
        "trace": {},
    }


def synthetic():
    """Two workloads; medians of the reference are 2 and 10, of ours 1.8 and 12."""
    return scores.Scores(
        [
            record("a", "adam_cosine", "tuned", [4.0, 3.0, 5.0], [9.0] * 3, rate=0.1),
            record("a", "adam_cosine", "tuned", [2.0, 1.0, 3.0], [9.0] * 3, rate=0.2),
            record("b", "adam_cosine", "tuned", [10.0, 10.0, None], [9.0] * 3, rate=0.1),
            record("a", "adam_constant", "tuned", [3.0] * 3, [1.6] * 3, rate=0.1),
            record("b", "adam_constant", "tuned", [30.0] * 3, [8.0] * 3, rate=0.1),
            record("a", "parabolic_adam", "ours", [9.0] * 3, [1.8, 1.0, 2.5], curve=[3.0, 2.0]),
            record("b", "parabolic_adam", "ours", [9.0] * 3, [12.0, 9.0, 13.0]),
            record("a", "prodigy", "peer", [1.9, 2.0, 2.4], [1.0] * 3)
            | {"curves": {"last": [2.1, 1.9]}},
            record("b", "prodigy", "peer", [None, None, 1.0], [1.0] * 3)
            | {"curves": {"last": [None]}},
        ]
    )


def test_runs_that_are_stopped_at_their_best_reading():
    computed = scores.Scores(
        [
            record("a", "adam_cosine", "tuned", [4.0] * 3, [9.0] * 3, curve=[2.0, 4.0], rate=0.1),
            record("a", "adam_cosine", "tuned", [3.0] * 3, [9.0] * 3, curve=[5.0, 3.0], rate=0.2),
            record("a", "parabolic_adam", "ours", [9.0] * 3, [6.0] * 3, curve=[3.0, None, 6.0]),
        ]
    )
    ours = computed.ours[0]
    assert computed.stopped("a", scores.REFERENCE) == 2.0
    assert computed.stopped("a", ours) == 3.0
    assert math.isnan(computed.stopped("b", ours))
    assert "| parabolic_adam() | 1.500 | 1.500 | 2.000 |" in report.stopped(computed)


def test_a_tuned_decay_is_told_from_the_default():
    def decayed(decay, readout):
        made = record("a", "parabolic_muon", "ours", [9.0] * 3, [readout] * 3)
        return made | {"setting": {} if decay is None else {"weight_decay": decay}}

    computed = scores.Scores(
        [
            record("a", "adam_cosine", "tuned", [2.0] * 3, [9.0] * 3, rate=0.1),
            *(decayed(*pair) for pair in ((None, 3.0), (0.01, 1.0), (0.1, 5.0))),
            record("a", "parabolic_adam", "ours", [9.0] * 3, [4.0] * 3),
        ]
    )
    assert {entry.label: computed.loss("a", entry) for entry in computed.ours_decayed} == {
        "parabolic_muon(weight_decay=0.01)": 1.0,
        "parabolic_muon(weight_decay=0.1)": 5.0,
        "parabolic_muon, decay tuned": 1.0,
    }
    assert [computed.loss("a", entry) for entry in computed.ours] == [3.0, 4.0]
    printed = report.best_settings(computed)
    assert "| parabolic_muon, decay tuned | 0.01 |" in printed
    head, _, row, *_ = report.table(computed).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["parabolic_muon()"] == "1.500"
    assert cells["parabolic_muon(weight_decay=0.1)"] == "2.500"


def test_scores_against_values_by_hand():
    computed = synthetic()
    cosine, averaged = scores.REFERENCE, scores.AVERAGED
    [ours], [peer] = computed.ours, computed.peers
    assert computed.loss("a", cosine) == 2.0
    assert computed.ratios(ours) == pytest.approx([0.9, 1.2])
    assert scores.geometric_mean(computed.ratios(ours)) == pytest.approx(math.sqrt(1.08))
    assert computed.ratios(ours, averaged) == pytest.approx([1.8 / 1.6, 12.0 / 8.0])
    # Without a curve of its readout a peer is judged by its parameters; most seeds diverged on b.
    assert computed.ratios(peer) == pytest.approx([1.0, math.inf])
    # Won: seeds 0 and 1 on a, seeds 0 and 1 on b.
    assert computed.wins(ours, [peer]) == pytest.approx(4 / 6)
    assert computed.steps_to_target("a", ours) == 1.0
    assert computed.steps_to_target("b", ours) == math.inf
    profile = computed.profile([cosine, averaged, ours])
    assert profile[averaged] == pytest.approx([1.0, 1.0])
    assert profile[ours] == pytest.approx([1.8 / 1.6, 12.0 / 8.0])


def test_peers_are_judged_by_the_better_of_parameters_and_average():
    both = {"curves": {"last": [3.0, 2.0], "readout": [2.5, 1.0]}}
    computed = scores.Scores(
        [
            record("a", "adam_cosine", "tuned", [2.0] * 3, [9.0] * 3, rate=0.1),
            record("b", "adam_cosine", "tuned", [2.0] * 3, [9.0] * 3, rate=0.1),
            record("a", "dog", "peer", [2.0] * 3, [1.0] * 3, curve=[9.0] * 2) | both,
            record("b", "dog", "peer", [3.0] * 3, [4.0] * 3) | both,
            record("a", "schedule_free", "peer", [9.0] * 3, [4.0] * 3) | both,
        ]
    )
    dog, schedule_free = computed.peers
    assert computed.ratios(dog) == pytest.approx([0.5, 1.5])
    assert computed.ratios(schedule_free) == pytest.approx([2.0])
    assert computed.wins(dog, [schedule_free]) == 1.0
    assert computed.steps_to_target("a", dog) == 1.0
    assert [computed.ratios(each).tolist() for each in computed.peers_last] == [[1.0, 1.5], [4.5]]


def test_one_rate_is_the_same_on_all_workloads():
    computed = synthetic()
    # 0.1 was run on both, 0.2, which is better on the first, on one.
    ratios = computed.ratios(scores.UNDECAYED._replace(rate=0.1))
    assert ratios == pytest.approx([4.0 / 2.0, 1.0])
    assert "| adam_cosine, last | 0.1 | 0 | 1.414 | 2.000 |" in report.one_setting(computed)
    assert "| 0.2 |" not in report.one_setting(computed)


def test_interval_holds_the_mean_and_narrows_with_more_problems():
    ratios = np.exp(np.random.default_rng(0).normal(size=40))
    few, many = scores.interval(ratios[:10]), scores.interval(ratios)
    assert few[0] < scores.geometric_mean(ratios[:10]) < few[1]
    assert many[0] < scores.geometric_mean(ratios) < many[1]
    assert many[1] / many[0] < few[1] / few[0]
    # For many problems that of the normal distribution.
    half = 1.96 * np.std(np.log(ratios)) / math.sqrt(40)
    assert math.log(many[1] / many[0]) / 2 == pytest.approx(half, rel=0.1)
    assert all(math.isnan(end) for end in scores.interval(np.array([1.0])))
    assert all(math.isnan(end) for end in scores.interval(np.array([1.0, math.inf])))


def test_tables_of_the_synthetic_records():
    computed = synthetic()
    lines = report.table(computed).splitlines()
    assert lines[2] == "| a | 2 | 1.000 | 0.800 | 0.900 | 1.000 prodigy |"
    assert lines[3] == "| b | 10 | 1.000 | 0.800 | 1.200 | ∞ prodigy |"
    assert lines[4] == "| **geometric mean** | 1.000 | 1.000 | 0.800 | 1.039 | – |"
    assert lines[5].startswith("| **95 % interval** | 1.00 to 1.00 |")
    assert lines[6] == "| **median** | 1.000 | 1.000 | 0.800 | 1.050 | – |"
    assert lines[7] == "| **worst** | 1.000 | 1.000 | 0.800 | 1.200 | – |"
    summary = report.summary(computed).splitlines()
    assert (
        "| parabolic_adam() | 1.039 | 1.200 | 1 | 1.039 | 1.200 | 1 | 1.299 | 1.500 | 0"
        " | 0.90 to 1.20 | 1.050 | 2 | 0 |"
    ) in summary
    assert (
        "| prodigy | 1.000 | 1.000 | 1 | 1.000 | 1.000 | 1 | 1.250 | 1.250 | 0 | – | ∞ | 2 | 1 |"
    ) in summary
    assert "| all of them at once | 67 % |" in report.wins(computed)
    assert "| parabolic_adam() | 1.00 | never |" in report.steps(computed)


@pytest.mark.parametrize(
    "suite",
    [
        # The largest one is read by the test of the README's table as well.
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem == "confirmation" else ())
        for path in sorted(records.RESULTS.glob("*.jsonl"))
    ],
)
def test_every_stored_suite_can_be_reported(suite):
    computed = report.load(suite)
    assert computed.records
    for section in (*report.SECTIONS.values(), report.table, report.robustness):
        assert section(computed)


def test_robustness_is_relative_to_the_median_of_the_variations():
    def of(workload, optimizer, loss):
        return record(workload, optimizer, "ours", [9.0] * 3, [loss] * 3)

    computed = scores.Scores(
        [
            of("a", "parabolic_sgd", 1.0),
            of("a", "parabolic_sgd@initial_step=0.01", 1.1),
            of("a", "parabolic_sgd@initial_step=1e-8", 0.9),
            of("a@loss=1000", "parabolic_sgd", 1.5),
        ]
    )
    lines = report.robustness(computed)
    assert "| a, parabolic_sgd() | initial_step | default: 1.000, 0.01: 1.100, 1e-8: 0.900 | 1.111 |" in lines  # fmt: skip  # noqa: E501
    assert "| a, parabolic_sgd() | loss | default: 0.800, 1000: 1.200 | 1.250 |" in lines


@pytest.mark.parametrize("suite", ["confirmation", "audit", "audit-tables"])
def test_tables_of_all_problems_come_from_the_stored_records(suite):
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    assert report.table(report.load(suite)) in text


def test_alarm_is_raised_by_worse_and_by_missing_records(tmp_path):
    stored = (records.RESULTS / "smoke.jsonl").read_text("utf-8").splitlines()
    path = tmp_path / "smoke.jsonl"
    path.write_text("\n".join(stored), "utf-8")
    assert alarm.main([str(tmp_path)]) == 0

    changed = [json.loads(line) for line in stored]
    ours = next(record for record in changed if record["optimizer"] == "parabolic_adam")
    ours["readout"] = [1.2 * loss for loss in ours["readout"]]
    path.write_text("\n".join(map(json.dumps, changed)), "utf-8")
    assert alarm.main([str(tmp_path)]) == 1

    missing = [json.dumps(record) for record in changed if record is not ours]
    path.write_text("\n".join(missing), "utf-8")
    assert alarm.main([str(tmp_path)]) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_command_can_be_started(path):
    try:
        importlib.import_module(f"benchmarks.{path.stem}")
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in ("benchmarks", "parabolic_optax", "tests"):
            raise
        pytest.skip(f"needs {error.name}")
