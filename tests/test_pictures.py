"""Pictures of the report."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddjax.evaluation import plots
from ddjax.evaluation.nearest import nearest


@pytest.fixture
def shown(monkeypatch):
    """The figures that are drawn."""
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", kept.append)
        yield kept
    plt.close("all")


def test_what_has_no_distance_is_not_on_the_logarithmic_axis(tmp_path, shown):
    """Rounding may make a distance 0 or less."""
    points = {"a": (1e-3, 2.0), "b": (2e-3, -1e-17), "c": (3e-3, 0.0)}
    plots.tradeoff(tmp_path / "t.png", points, {"floor": 0.0, "high": 3.0}, "distance")
    axis = shown[0].axes[0]
    _, names = axis.get_legend_handles_labels()
    assert names == ["a"] and [text.get_text() for text in axis.texts] == ["high"]
    assert 0 < axis.get_ylim()[0] < 2.0 < 3.0 < axis.get_ylim()[1]


def test_tokens_equal_by_position_have_a_line_each_and_groups_their_bounds(tmp_path, shown):
    lines = {"student_1step": np.array([1, 0.5, 0.4]), "refine_1": np.array([1, 1, 0.8])}
    plots.by_position(tmp_path / "p.png", lines, np.array([0.2, 0.1, 0.3]), (0, 1))
    (axis,) = shown[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    np.testing.assert_array_equal(drawn["refine_1"], [1, 1, 0.8])
    np.testing.assert_array_equal(drawn["chance (teacher_ar)"], [0.2, 0.1, 0.3])
    bounds = [line.get_xdata()[0] for line in axis.lines if line.get_label().startswith("_")]
    assert bounds == [-0.5, 0.5]
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize("kept", [None, 20])
def test_a_validation_shows_which_student_was_kept(tmp_path, shown, kept):
    rows = [{"step": 10, "fd": 4.0, "tokens_equal": 0.2}, {"step": 20, "fd": 2.0,
                                                           "tokens_equal": 0.5}]
    plots.validation(tmp_path / "v.png", rows, kept, "a title")
    for axis, name in zip(shown[0].axes, ("fd", "tokens_equal"), strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), [10, 20])
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), [row[name] for row in rows])
        assert axis.get_ylabel() == plots.VALIDATED[name]
        assert [text.get_text() for text in axis.texts] == ["kept"] * (kept is not None)


def test_the_nearest_is_found_over_all_batches():
    """And an image that is in the set is at distance 0, though samples' features are float16."""
    rng = np.random.default_rng(0)
    whole, given = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=(4, 5))
    given[2] = whole[17].astype(np.float16)
    found = nearest(given, np.array_split(whole, [10, 20]))
    distances = cdist(given, whole)
    np.testing.assert_array_equal(found.number_N, distances.argmin(1))
    np.testing.assert_allclose(found.distance_N, distances.min(1), atol=1e-2)
    assert found.number_N[2] == 17 and found.distance_N[2] == 0
