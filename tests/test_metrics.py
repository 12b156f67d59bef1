"""Metrics against cases with a known answer."""

import dataclasses

import numpy as np
import pytest

from ddjax.evaluation import metrics, report
from ddjax.evaluation.frechet import Gaussian, frechet_distance
from ddjax.evaluation.metrics import METRICS, Samples, measured
from ddjax.evaluation.network import Network
from ddjax.evaluation.precision_recall import precision_recall
from ddjax.evaluation.reference import Reference
from ddjax.evaluation.statistics import Observed, Statistics
from ddjax.method.protocols import Features

REAL = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
FAKE = np.array([[0.4], [1.4], [1.8], [50.0]])
PROXY, INCEPTION = Network("classifier", "0"), Network("inception", "0", "tf1")


def gaussian(features_NF):
    """By numpy alone."""
    return Gaussian(features_NF.mean(0), np.atleast_2d(np.cov(features_NF, rowvar=False)))


def random_gaussian(rng, mean, width=4):
    m = rng.normal(size=(width, width))
    return Gaussian(np.full(width, float(mean)), m @ m.T + np.eye(width))


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    a = Gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = Gaussian(np.array([1.0, -2.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, abs=1e-12)
    assert frechet_distance(b, a) == pytest.approx(10, abs=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_frechet_of_rotated_gaussians():
    """Against the matrix square root, where the covariances do not commute."""
    import scipy.linalg

    rng = np.random.default_rng(1)
    a, b = random_gaussian(rng, 1), random_gaussian(rng, 0)
    root = scipy.linalg.sqrtm(a.cov_FF @ b.cov_FF).real
    wanted = 4 + np.trace(a.cov_FF + b.cov_FF - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-10)


def test_frechet_of_singular_covariances():
    """Fewer samples than features: of Gaussians in a plane it is the distance within the plane."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0][:, :2]
    a, b = random_gaussian(rng, 1, 2), random_gaussian(rng, 0, 2)
    far = [Gaussian(turn @ x.mean_F, turn @ x.cov_FF @ turn.T) for x in (a, b)]
    assert frechet_distance(*far) == pytest.approx(frechet_distance(a, b), abs=1e-6)
    dead = Gaussian(np.zeros(3), np.diag([1.0, 2.0, 0.0]))
    moved = Gaussian(np.array([0, 0, 2.0]), dead.cov_FF)
    assert frechet_distance(dead, moved) == pytest.approx(4, abs=1e-12)


def test_precision_recall_by_hand():
    """Two clusters of real points; the fakes sit in one of them, one fake is far away."""
    # Radii to the first neighbour are 1 for the real, 1, .4, .4, 48.2 for the fake.
    assert precision_recall(REAL, FAKE, 1) == pytest.approx((3 / 4, 6 / 6))
    # 0 and 2 by the first three, 1 by all, and the far fake's ball reaches down to 1.8.
    assert precision_recall(REAL, FAKE[:3], 1).recall == pytest.approx(3 / 6)


def observed(features, first=0, **others):
    pooled, *behind = features if isinstance(features, Features) else Features(features)
    rows = np.arange(len(pooled))
    return Observed(**{
        "index_B": first + rows, "levels_BHWC": np.zeros((len(rows), 2, 2, 1), np.uint8),
        "features": Features(pooled, *behind), **others,
    })


def samples(features, **others):
    """Of four images, as drawn for a report."""
    ids = np.arange(12).reshape(4, 3)
    batch = observed(features, **{
        "class_B": np.array([0, 1, 2, 0]), "label_B": np.array([0, 1, 2, 3]), "ids_BL": ids,
        "exact_ids_BL": np.where(ids < 6, ids, 0), **others,
    })
    statistics = Statistics(len(features))
    statistics.add(batch, metrics.per_image(batch))
    return Samples(statistics, features, 5, 0.25, 2.0)


def reference(data, teacher, network=PROXY):
    return Reference(network, "data", len(data), gaussian(data), None, data, gaussian(teacher), 1)


RIGHT = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], bool)


@pytest.fixture
def checker(monkeypatch):
    """A checker of pictures that finds `RIGHT`; scenes 0 to 3, of which the last is known."""
    from ddjax.data import shapes

    monkeypatch.setattr(shapes, "checked", lambda pictures, number: RIGHT[number])
    monkeypatch.setattr(shapes, "is_held_out", lambda number: number != 3)
    return {"scene_B": np.arange(4)}


def test_a_row_of_the_report_by_hand(checker):
    """Each figure under its own name: precision and recall, data and teacher are not alike."""
    teacher = np.array([[0.0], [2.0], [1.0], [1.0]])
    row = measured("x", [samples(FAKE, **checker)], reference(REAL, teacher))

    def distance(other):
        a, b = FAKE.std(ddof=1), other.std(ddof=1)
        return (FAKE.mean() - other.mean()) ** 2 + (a - b) ** 2

    assert row.pop("deviation") == dict.fromkeys((metric.name for metric in METRICS), None)
    assert row == pytest.approx({
        "method": "x", "fid": None, "sfid": None, "inception_score": None,
        "clip_score": None, "fd_data": distance(REAL), "fd_teacher": distance(teacher),
        "class_accuracy": 3 / 4, "precision": 3 / 4, "recall": 6 / 6, "tokens_equal": 6 / 12,
        "passes": 5, "seconds_per_image": 0.25, "speedup": 8.0, "colour_right": 4 / 4,
        "shape_right": 2 / 4, "size_right": 3 / 4, "place_right": 2 / 4, "all_right": 1 / 4,
        "all_right_held_out": 1 / 3,
    })
    without = measured("x", [samples(FAKE)], reference(REAL, teacher))
    assert without["colour_right"] is without["all_right_held_out"] is None
    assert "all right" in report.table([row | {"deviation": without["deviation"]}])
    assert "right" not in report.table([without]) and "FID" not in report.table([without])


def test_a_row_of_several_sets_by_hand():
    """Means over the sets, and standard deviations of what differs by chance."""
    sets = [samples(FAKE), samples(FAKE / 5, class_B=np.zeros(4))]
    sets[1] = dataclasses.replace(sets[1], seconds_per_image=0.75)
    row = measured("x", sets, reference(REAL, REAL))
    apart = [measured("x", [one], reference(REAL, REAL)) for one in sets]
    for name in ("fd_data", "precision", "recall", "class_accuracy"):
        pair = [one[name] for one in apart]
        assert row[name] == pytest.approx(np.mean(pair))
        assert row["deviation"][name] == pytest.approx(abs(pair[0] - pair[1]) / np.sqrt(2))
    assert row["class_accuracy"] == pytest.approx(0.5)
    assert row["seconds_per_image"] == 0.5 and row["deviation"]["seconds_per_image"] is None
    assert row["deviation"]["passes"] is None and row["deviation"]["speedup"] is None


def test_only_inceptions_distance_is_called_fid():
    """And only of its logits there is an Inception score, here of two sure and even classes."""
    logits = np.array([[20.0, 0], [0, 20], [20, 0], [0, 20]] * 5, np.float32)
    features = np.random.default_rng(0).normal(size=(20, 2))
    seen = Features(features, np.flip(features, 1) + 1, logits)
    rows = []
    for network in (PROXY, INCEPTION):
        statistics = Statistics(20)
        statistics.add(observed(seen), {})
        made = dataclasses.replace(
            reference(features, features, network), spatial=gaussian(features)
        )
        rows.append(measured("x", [Samples(statistics, features)], made))
    proxy, inception = rows
    assert proxy["fid"] is proxy["sfid"] is proxy["inception_score"] is inception["fd_data"] is None
    assert proxy["fd_data"] == inception["fid"] == pytest.approx(0, abs=1e-9)
    wanted = frechet_distance(gaussian(np.flip(features, 1) + 1), gaussian(features))
    assert inception["sfid"] == pytest.approx(wanted) and wanted > 1
    assert inception["inception_score"] == pytest.approx(2, abs=1e-6)
    assert "| FID |" in report.table([inception]) and "FD to data" not in report.table([inception])


def test_tokens_equal_are_kept_by_position():
    made = samples(FAKE)
    np.testing.assert_allclose(made.statistics.means["tokens_equal"].value, [2 / 4] * 3)


def test_gaussian_of_features_in_memory():
    for made in (Gaussian.of(FAKE), Gaussian.of(FAKE.astype(np.float32))):
        assert made.mean_F == pytest.approx([53.6 / 4])
        assert made.cov_FF == pytest.approx(np.array([[(13.0**2 + 12**2 + 11.6**2 + 36.6**2) / 3]]))
