"""Reports of ablations: tables with deviations over seeds, curves, figures over the values."""

import json

import matplotlib.image
import numpy as np
import pytest

from ddjax.ablate import curves, results, values


def hand_made():
    """Numbers of two ablations."""
    def one(value, start):
        curve = {"step": [10, 20], "fd": [[start, start + 2], [1.0, 1.0]],
                 "tokens_equal": [[0.25, 0.75], [0.5, 0.75]]}
        return {"value": value, "curve": curve, "rows": [
            {"method": "student_1step", "fd_teacher": [start, start + 2.0],
             "tokens_equal": [0.25, 0.75]},
        ]}
    return {"name": "small", "seeds": 2, "samples": 7, "ablations": [
        {"key": "student.steps", "values": [one("0,5", 3.0), one("0,3", 40.0)]},
        {"key": "pairs.count", "values": [one("10", 3.0), one("20", 4.0), one("30", 5.0)]},
    ]}


def test_the_table_has_means_and_deviations_over_seeds(tmp_path):
    found = hand_made()
    text = results.write(tmp_path, found, "python -m ddjax.ablate --some=flag")
    lines = text.splitlines()
    assert lines[0] == "| student.steps | method | FD to teacher | tokens equal |"
    assert lines[2] == "| 0,5 | student_1step | 4.00 ± 1.41 | 0.500 ± 0.354 |"
    assert sum(line.startswith("| pairs.count ") for line in lines) == 1
    report = (tmp_path / "ablation.md").read_text()
    assert text in report and "`python -m ddjax.ablate --some=flag`" in report
    assert "students of 2 seeds ± their standard deviation" in report
    assert json.loads((tmp_path / "ablation.json").read_text()) == found
    assert results.mean_and_deviation([3.0]) == (3.0, None)


@pytest.mark.parametrize(("curve", "wanted"), [
    ({"step": [1]}, "A figure is of the student of one seed; more --seeds"),
    (None, "A figure is of one seed; more --seeds"),
])
def test_one_seed_is_no_mean(tmp_path, curve, wanted):
    rows = [{"method": "teacher_ar", "fd_data": [1.0]}]
    values = [{"value": "1", "curve": curve, "rows": rows}]
    found = {"name": "small", "seeds": 1, "samples": 7,
             "ablations": [{"key": "guidance.scale", "values": values}]}
    results.write(tmp_path, found, "command")
    report = (tmp_path / "ablation.md").read_text()
    assert wanted in report and "1 seeds" not in report and "| 1.00 |" in report


def test_the_curves_are_drawn(tmp_path, monkeypatch):
    """A row for each ablation; a line and a band for each value; axes have titles."""
    kept = []
    monkeypatch.setattr(curves.plt, "close", kept.append)
    curves.draw(tmp_path / "curves.png", hand_made())
    (figure,) = kept
    axes = figure.axes
    assert [len(axis.lines) for axis in axes] == [len(axis.collections) for axis in axes]
    assert [len(axis.lines) for axis in axes] == [2, 2, 3, 3]
    assert all(axis.get_xlabel() == "steps of training" and axis.get_ylabel() for axis in axes)
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), [41.0, 1.0])
    band = axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(4 + 2**0.5)
    assert len({line.get_color() for line in axes[2].lines}) == 3
    assert len({line.get_marker() for line in axes[2].lines}) == 3
    assert matplotlib.image.imread(tmp_path / "curves.png").std() > 0.05


def test_figures_are_drawn_over_the_values(tmp_path, monkeypatch):
    """Numbers where they are on the axis, in their order; other values side by side."""
    def one(value, fd):
        rows = [{"method": "teacher_ar", "fd_data": [fd, fd + 2], "fd_teacher": [1.0, 1.0]}]
        return {"value": value, "curve": None, "rows": rows}

    kept = []
    monkeypatch.setattr(curves.plt, "close", kept.append)
    values.draw(tmp_path / "values.png", {"name": "small", "seeds": 2, "ablations": [
        {"key": "guidance.scale", "values": [one("3", 5.0), one("1", 9.0), one("1.5", 6.0)]},
        {"key": "guidance.schedule", "values": [one("constant", 5.0), one("linear", 6.0)]},
    ]})
    scale, schedule = kept[0].axes
    assert (scale.get_xlabel(), scale.get_ylabel()) == ("guidance.scale", "FD to data")
    (bars,) = scale.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[1, 10], [1.5, 7], [3, 6]])
    (ends,) = bars.lines[2]
    np.testing.assert_allclose(np.ptp(ends.get_segments()[0], axis=0), [0, 2 * 2**0.5])
    assert [text.get_text() for text in schedule.get_xticklabels()] == ["constant", "linear"]
