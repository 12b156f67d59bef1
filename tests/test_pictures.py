"""Pictures of the report."""

import matplotlib.pyplot as plt

from ddjax.evaluation import plots


def test_what_has_no_distance_is_not_on_the_logarithmic_axis(tmp_path, monkeypatch):
    """Rounding may make a distance 0 or less."""
    shown = []
    monkeypatch.setattr(plt, "close", shown.append)
    points = {"a": (1e-3, 2.0), "b": (2e-3, -1e-17), "c": (3e-3, 0.0)}
    plots.tradeoff(tmp_path / "t.png", points, {"floor": 0.0, "high": 3.0}, "distance")
    axis = shown[0].axes[0]
    _, names = axis.get_legend_handles_labels()
    assert names == ["a"] and [text.get_text() for text in axis.texts] == ["high"]
    assert 0 < axis.get_ylim()[0] < 2.0 < 3.0 < axis.get_ylim()[1]
    plt.close("all")
