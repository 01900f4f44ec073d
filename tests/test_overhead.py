"""What a step moves and keeps, counted by hand and as the compiler sees it."""

import re

import pytest

from benchmarks import overhead

# Numbers per parameter: those kept beside the parameters, and those that a step reads or writes
# at least, gradients and parameters included.
COUNTED = {
    "addition": (0, 3),
    "sgd": (1, 5),
    "adamw": (2, 7),
    "parabolic_sgd(tail_power=None)": (2, 7),
    "parabolic_sgd": (3, 9),
    "parabolic_adam(tail_power=None)": (3, 9),
    "parabolic_adam(mean_dtype=bfloat16)": (3, 9),
    "parabolic_adam": (4, 11),
}


@pytest.mark.parametrize("method", COUNTED)
def test_state_and_traffic_are_as_counted(method):
    facts = overhead.Program(overhead.update_alone(40_000, 1), method).facts
    kept, moved = COUNTED[method]
    assert facts["state_buffers"] == pytest.approx(kept, abs=0.01)
    assert facts["bytes_floor"] / (4 * facts["parameters"]) == pytest.approx(moved, abs=0.01)
    assert facts["traces"] == 1


def distinct_loops(leaves):
    """How many different pieces of code the compiled update of so many equal tensors has."""
    text = overhead.Program(overhead.update_alone(100 * leaves, leaves), "parabolic_adam").text
    text = re.sub(r", metadata=\{[^}]*\}", "", text)
    bodies = [body.partition("\n")[2] for body in re.split(r"\n(?=%\S+ \()", text)]
    # Vectors have one number per tensor, and one for all.
    lengths = re.compile(rf"\[({leaves}|{leaves + 1})\]")
    return len({re.sub(r"%[\w.\-]+", "%", lengths.sub("[n]", body)) for body in bodies})


def test_equal_tensors_share_their_code():
    assert distinct_loops(24) <= distinct_loops(12) + 2


def test_command_line_measures_stores_and_prints(tmp_path, capsys):
    path = tmp_path / "overhead.json"
    arguments = ["--size", "2e4", "--cases", "in 20 leaves", "--methods", "sgd"]
    assert overhead.main([*arguments, "--seconds", "0.01", "--results", str(path)]) == 0
    [(device, stored)] = overhead.read(path).items()
    [(case, methods)] = stored["cases"].items()
    assert case == "update, 20,000 in 20 leaves"
    assert set(methods) == {"adamw", "addition", "sgd"}
    assert methods["adamw"]["ratio"] == [1.0, 1.0, 1.0]
    overhead.store(path, case, {"sgd": methods["adamw"]})
    capsys.readouterr()
    assert overhead.main(["--table", "--results", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"## {device}")
    # The stored figures were replaced by those of adamw.
    assert "| sgd |" in printed
    assert printed.count("| 1 (1–1) |") == 2
    # The fastest, and after the exchange the two are equal.
    assert printed.count("| 100% |") in (1, 2)


def test_growth_is_the_slope_in_logarithms():
    def case(parameters, milliseconds):
        figures = {"parameters": parameters, "milliseconds": [milliseconds, 0.0, 9.0]}
        return {"adamw": figures | {"bytes_accessed": 40 * parameters}}

    cases = {
        "update, 10 in 20 leaves": case(10, 2.0),
        "update, 1,000 in 20 leaves": case(1000, 20.0),
        "update, 1,000 in 2,000 leaves": case(1000, 99.0),
    }
    assert overhead.growth(cases) == {"adamw": pytest.approx((0.5, 1.0))}


@pytest.mark.slow
def test_peak_memory_of_processes(tmp_path, capsys):
    path = tmp_path / "overhead.json"
    arguments = ["--memory", "--methods", "adamw", "--results", str(path)]
    assert overhead.main([*arguments, "--size", "2e7"]) == 0
    [stored] = overhead.read(path).values()
    peaks = stored["memory"]["20,000,000 in 20 leaves"]
    # Parameters and gradients are two buffers of 4 bytes, the state is two more.
    assert 8.0 < peaks[""] < 12.0
    assert 16.0 < peaks["adamw"] < 22.0
    capsys.readouterr()
    assert overhead.main(["--table", "--results", str(path)]) == 0
    assert f"| adamw | {peaks['adamw']:.1f} |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", overhead.METHODS)
def test_every_method_takes_a_whole_step(method):
    case = overhead.transformer(width=16, blocks=1, rows=2, window=8)
    # The state of optax's L-BFGS changes its type with the first step.
    assert overhead.Program(case, method).facts["traces"] == (2 if method == "lbfgs" else 1)
