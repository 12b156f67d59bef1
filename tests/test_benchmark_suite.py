"""The benchmark's suite: the tiny one, stopped and gone on with, on a bare image."""

import json

import jax
import numpy as np
import pytest

from ddjax.benchmark import numerics, suite
from ddjax.runtime.errors import UserError
from tests.test_pipeline import bare


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The tiny suite in a process without ml_collections and what reads data."""
    folder = tmp_path_factory.mktemp("suite")
    done = bare(f"""
import runpy
sys.argv = ["benchmark", "--suite=tiny", "--output={folder}", "--minutes=60"]
runpy.run_module("ddjax.benchmark", run_name="__main__")
""", "ml_collections")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def read(folder, name):
    (file,) = folder.glob(f"{name}_*.json")
    return json.loads(file.read_text())


@pytest.mark.slow
def test_all_parts_are_measured(measured):
    folder, printed = measured
    checked = read(folder, "numerics")
    shares = checked["ids_of_the_flow_map_equal_to"]["var:tiny"]
    assert len(shares) == 3 and min(shares.values()) > 0.95
    assert checked["kept_by_refinement"]["var:tiny"] > 0.95
    found = read(folder, "llamagen_tiny")
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {
        "teacher_ar", "student_1step", "student_2step", "refine_1", "decode", "pairs",
        "flow map of the pairs", "training step",
    }
    assert found["parts"] == [2] and found["jax"] == jax.__version__ and found["device"]
    assert all(row["seconds"] > 0 and row["memory_mb"] > 0 for row in rows.values())
    assert rows["training step"]["model_flop_utilisation"] > 0
    assert rows["pairs"]["flow_map_share"] > 0
    assert "| student_1step | 2 |" in printed and "parts are left" not in printed


@pytest.mark.slow
def test_a_part_that_is_there_is_not_measured_again(measured, capsys):
    folder, _ = measured
    before = {path: path.read_text() for path in folder.iterdir()}
    suite.run("tiny", folder, 0.0, "again")
    assert {path: path.read_text() for path in folder.iterdir()} == before
    assert "| teacher_ar | 2 |" in capsys.readouterr().out


def test_a_stop_says_what_is_left(tmp_path, capsys):
    suite.run("tiny", tmp_path, -1.0, "first")
    assert "2 parts are left; run the same command again" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_results_of_other_versions_are_refused(tmp_path):
    about = {"device": "An (odd) name", "jax": "1", "flax": "1", "devices": 1}
    suite.Results(tmp_path, "var:d16", about).add("check", {"found": 1})
    assert (tmp_path / "var_d16_an_odd_name.json").exists()
    with pytest.raises(UserError, match=r"was made with jax 1, here is 2; give another --output"):
        suite.Results(tmp_path, "var:d16", {**about, "jax": "2"})


class Fails:
    """A program that the device does not run."""

    memory = staticmethod(lambda: 2**20)

    def __init__(self, text):
        self.text = text

    @property
    def ready(self):
        return self()

    def __call__(self):
        raise jax.errors.JaxRuntimeError(self.text)


@pytest.mark.parametrize(("text", "problem"), [
    ("RESOURCE_EXHAUSTED: Out of memory", "out of memory"),
    ("INTERNAL: broken\nwith much more", "JaxRuntimeError: INTERNAL: broken"),
])
def test_what_a_device_does_not_run_is_recorded(text, problem):
    assert suite._measure(Fails(text), 1, 1) == {"memory_mb": 1, "problem": problem}
    ((_, found),) = suite._compile([Fails(text)])
    assert found == problem
    row = {"name": "pairs", "batch": 1, "problem": problem}
    suite.report.add_ratios([row], lambda batch: 0.0)
    assert suite.report._table_row(row) == f"| pairs | 1 | | | | {problem} |"


def test_a_part_that_fails_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    def check(*_, **__):
        raise RuntimeError("no CPU beside the GPU")

    class Measured:
        def __init__(self, name):
            self.name = name

        def at(self, batch, repeats, trained):
            assert trained
            return {"rows": [{"name": "pairs", "batch": batch, "problem": "none"}], "config": "c"}

    monkeypatch.setattr(numerics, "check", check)
    monkeypatch.setattr(suite, "Measured", Measured)
    with pytest.raises(UserError, match="1 parts failed"):
        suite.run("tiny", tmp_path, 60.0, "first")
    assert "no CPU beside the GPU" in capsys.readouterr().err
    assert [path.name.split("_")[0] for path in tmp_path.iterdir()] == ["llamagen"]
    assert read(tmp_path, "llamagen")["parts"] == [2]


def test_large_training_steps_are_computed_in_parts():
    def found(name, batch):
        train = suite._in_parts(suite.published.read(name), batch).distill.train
        return train.batch, train.accumulate

    assert [found("llamagen:B", n) for n in (8, 16, 128)] == [(8, 1), (16, 1), (128, 8)]
    assert [found("var:d20", n) for n in (8, 128)] == [(8, 1), (128, 16)]
    assert found("llamagen:tiny", 2) == (2, 1)


def test_a_device_that_computes_otherwise_is_seen(monkeypatch):
    """Half of the vectors' size lost, as by a wrong kernel."""
    right = numerics._outputs
    assert max(numerics._models("llamagen:tiny").values()) < 1e-5
    cpu = jax.devices("cpu")[-1]

    def wrong(*given):
        found = right(*given)
        here = next(iter(found["vectors"].devices()))
        return found if here == cpu else {**found, "vectors": found["vectors"] / 2}

    monkeypatch.setattr(numerics, "_outputs", wrong)
    assert np.isclose(numerics._models("llamagen:tiny")["vectors"], 0.5, atol=1e-3)
