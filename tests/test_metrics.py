"""Metrics against cases with a known answer."""

import numpy as np
import pytest

from ddjax.evaluation import report
from ddjax.evaluation.frechet import frechet_distance
from ddjax.evaluation.metrics import METRICS, Samples, measured
from ddjax.evaluation.precision_recall import precision, recall
from ddjax.evaluation.reference import Reference

REAL = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
FAKE = np.array([[0.4], [1.4], [1.8], [50.0]])


def exact_gaussian(rng, count, mean, cov):
    """Samples whose mean and covariance are exactly these."""
    x = rng.normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)).T)
    return x @ np.linalg.cholesky(cov).T + mean


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    rng = np.random.default_rng(0)
    a = exact_gaussian(rng, 500, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = exact_gaussian(rng, 400, np.array([1.0, -2.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, abs=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_of_rotated_gaussians():
    """Against the matrix square root, where the covariances do not commute."""
    import scipy.linalg

    rng = np.random.default_rng(1)
    cov_a, cov_b = (m @ m.T + np.eye(4) for m in rng.normal(size=(2, 4, 4)))
    a = exact_gaussian(rng, 300, np.ones(4), cov_a)
    b = exact_gaussian(rng, 300, np.zeros(4), cov_b)
    wanted = 4 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)


def test_frechet_with_a_dead_feature():
    rng = np.random.default_rng(2)
    a = np.pad(rng.normal(size=(100, 2)), ((0, 0), (0, 1)))
    assert frechet_distance(a, a + np.array([0, 0, 2.0])) == pytest.approx(4, abs=1e-6)


def test_precision_recall_by_hand():
    """Two clusters of real points; the fakes sit in one of them, one fake is far away."""
    # Radii to the first neighbour are 1 for the real, 1, .4, .4, 48.2 for the fake.
    assert precision(REAL, FAKE, neighbours=1) == pytest.approx(3 / 4)
    # 0 and 2 by the first three, 1 by all, and the far fake's ball reaches down to 1.8.
    assert recall(REAL, FAKE, neighbours=1) == pytest.approx(6 / 6)
    assert recall(REAL, FAKE[:3], neighbours=1) == pytest.approx(3 / 6)


def samples(features, **others):
    ids = np.arange(12).reshape(4, 3)
    exact = np.where(ids < 6, ids, 0)
    return Samples(**{
        "features_NF": features, "classes_N": np.array([0, 1, 2, 0]),
        "labels_N": np.array([0, 1, 2, 3]), "ids_NL": ids, "exact_ids_NL": exact,
        "passes": 5, "seconds_per_image": 0.25, "teacher_seconds_per_image": 2.0,
        "right_NA": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], bool),
        "held_out_N": np.array([True, True, True, False]), **others,
    })


def test_a_row_of_the_report_by_hand():
    """Each figure under its own name: precision and recall, data and teacher are not alike."""
    teacher = np.array([[0.0], [2.0], [1.0], [1.0]])
    row = measured("x", [samples(FAKE)], Reference(teacher, REAL, REAL, neighbours=1))

    def distance(other):
        a, b = FAKE.std(ddof=1), other.std(ddof=1)
        return (FAKE.mean() - other.mean()) ** 2 + (a - b) ** 2

    assert row.pop("deviation") == dict.fromkeys((metric.name for metric in METRICS), None)
    assert row == pytest.approx({
        "method": "x", "fd_data": distance(REAL), "fd_teacher": distance(teacher),
        "class_accuracy": 3 / 4, "precision": 3 / 4, "recall": 6 / 6, "tokens_equal": 6 / 12,
        "passes": 5, "seconds_per_image": 0.25, "speedup": 8.0, "colour_right": 4 / 4,
        "shape_right": 2 / 4, "size_right": 3 / 4, "place_right": 2 / 4, "all_right": 1 / 4,
        "all_right_held_out": 1 / 3,
    })
    without = measured("x", [samples(FAKE, right_NA=None)], Reference(teacher, REAL, REAL, 1))
    assert without["colour_right"] is without["all_right_held_out"] is None
    assert "all right" in report.table([row | {"deviation": without["deviation"]}])
    assert "right" not in report.table([without])


def test_a_row_of_several_sets_by_hand():
    """Means over the sets, and standard deviations of what differs by chance."""
    reference = Reference(REAL, REAL, REAL, neighbours=1)
    sets = [samples(FAKE), samples(FAKE / 5, classes_N=np.zeros(4), seconds_per_image=0.75)]
    row = measured("x", sets, reference)
    apart = [measured("x", [one], reference) for one in sets]
    for name in ("fd_data", "precision", "recall", "class_accuracy"):
        pair = [one[name] for one in apart]
        assert row[name] == pytest.approx(np.mean(pair))
        assert row["deviation"][name] == pytest.approx(abs(pair[0] - pair[1]) / np.sqrt(2))
    assert row["class_accuracy"] == pytest.approx(0.5)
    assert row["seconds_per_image"] == 0.5 and row["deviation"]["seconds_per_image"] is None
    assert row["deviation"]["passes"] is None and row["deviation"]["speedup"] is None


def test_samples_are_compared_with_data_of_all_kinds():
    """As many as there are samples, whatever order the data have."""
    data = np.arange(1000.0)[:, None]
    reference = Reference.of(np.zeros((60, 1)), data, 3, seed=0)
    subset = np.sort(reference.subset_NF[:, 0])
    assert len(np.unique(subset)) == 60 and np.isin(subset, data).all()
    assert subset[0] < 200 and 300 < np.median(subset) < 700 and subset[-1] > 800
    np.testing.assert_array_equal(reference.data_NF, data)
    np.testing.assert_array_equal(reference.teacher_NF, np.zeros((60, 1)))
