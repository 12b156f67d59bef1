"""All figures of 500 small images, from files to numbers, against other implementations.

The net is small and computed once more by numpy in float64; the figures by torch-fidelity's and
pytorch-fid's own functions where these are installed, and always by slow ones.
"""

import dataclasses
import importlib
import sys
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import torch
from flax import nnx
from PIL import Image

from ddjax.evaluation import reference_sets, statistics_files
from ddjax.evaluation.making import Keep
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import Samples, measured
from ddjax.evaluation.network import Network
from ddjax.evaluation.set_folder import SetFolder
from ddjax.method.protocols import Features
from tests.test_moments import slow_score
from tests.test_precision_recall import slow

SIDE, PATCH, WIDTH, CLASSES = 16, 4, 6, 20
NETWORK = Network("inception", "0", "tf1")


@dataclasses.dataclass(frozen=True)
class Config:
    resize: str = "tf1"
    image_size: int = SIDE


class SmallNet(nnx.Module):
    """Patches through a matrix: pooled, spatial and logits as Inception has them."""

    num_classes = 0

    def __init__(self):
        rng = np.random.default_rng(0)
        self.config = Config()
        self.weights = nnx.Param(rng.normal(size=(PATCH * PATCH * 3, WIDTH)).astype("f4"))
        self.head = nnx.Param(5 * rng.normal(size=(WIDTH, CLASSES)).astype("f4"))

    def measure(self, images):
        return Features(*_measure(jnp, images, self.weights[...], self.head[...]))


def _measure(xp, images, weights, head):
    """By numpy or by JAX."""
    grid = SIDE // PATCH
    x = images.reshape(-1, grid, PATCH, grid, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    maps = xp.maximum(x.reshape(-1, grid, grid, PATCH * PATCH * 3) @ weights, 0)
    pooled = maps.mean(axis=(1, 2))
    return pooled, maps[..., :2].reshape(len(maps), -1), pooled @ head


def pictures(count, seed, amount):
    """Smooth ones, of noise between two colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(count, 4, 4, 3)) ** amount
    return (255 * np.kron(coarse, np.ones((1, 4, 4, 1)))).astype(np.uint8)


SAMPLES, DATA = pictures(500, 1, 1.2), pictures(300, 2, 1.0)


@pytest.fixture(scope="module")
def net():
    return SmallNet()


@pytest.fixture(scope="module")
def exact(net):
    """(pooled, spatial, logits) of samples and data in float64, from the files' levels."""
    arrays = (np.asarray(net.weights[...], "f8"), np.asarray(net.head[...], "f8"))
    return [_measure(np, x.astype("f8") / 127.5 - 1, *arrays) for x in (SAMPLES, DATA)]


@pytest.fixture(scope="module")
def made(net, tmp_path_factory):
    """What we make of an .npz of samples and a folder of data: both, and what it is made by."""
    root = tmp_path_factory.mktemp("tools")
    np.savez_compressed(root / "samples.npz", arr_0=SAMPLES)
    (root / "data").mkdir()
    for i, levels in enumerate(DATA):
        Image.fromarray(levels).save(root / "data" / f"{i:03d}.png")
    measure = Measure(net, NETWORK, 64, save_every=100)
    reference = reference_sets.of_path(root / "data", measure, root / "reference", 3, seed=0)
    images = reference_sets.image_sets.open_images(root / "samples.npz")
    folder = SetFolder(root / "set", 500, Keep(lambda index: index >= 0))
    measure.images(folder, "samples", images)
    samples = Samples(folder.read().statistics, folder.rows("features"))
    return samples, reference, measure, root


@pytest.fixture(scope="module")
def row(made):
    samples, reference, *_ = made
    return measured("x", [samples], reference)


def test_through_files_of_statistics(made, row):
    """Ours and ADM's."""
    samples, reference, measure, root = made
    statistics_files.write(root / "ours.npz", reference)
    with np.load(root / "ours.npz") as found:
        np.savez(root / "adm.npz", arr_0=DATA, **{name: found[name] for name in
                                                  ("mu", "sigma", "mu_s", "sigma_s")})
    for name, has_images in (("ours", False), ("adm", True)):
        other = reference_sets.of_path(root / f"{name}.npz", measure, root / name, 3, seed=0)
        again = measured("x", [samples], other)
        for key in ("fid", "sfid", "inception_score"):
            assert again[key] == pytest.approx(row[key], rel=1e-9)
        for key in ("precision", "recall"):
            assert again[key] == (row[key] if has_images else None)


def slow_fid(a, b):
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    mean = a.mean(0) - b.mean(0)
    return mean @ mean + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def test_against_slow_functions(row, exact):
    (pooled, spatial, logits), (pooled_of_data, spatial_of_data, _) = exact
    assert row["fid"] == pytest.approx(slow_fid(pooled, pooled_of_data), rel=1e-5)
    assert row["sfid"] == pytest.approx(slow_fid(spatial, spatial_of_data), rel=1e-5)
    assert row["inception_score"] == pytest.approx(slow_score(logits, 10), rel=1e-5)
    kept = [x.astype(np.float16).astype("f8") for x in (pooled_of_data, pooled)]
    wanted = slow(*kept, 3)
    assert (row["precision"], row["recall"]) == pytest.approx(wanted)
    assert row["fd_data"] is None and 0.5 < min(wanted) < max(wanted) < 1
    assert row["fid"] > 0.01 and row["inception_score"] > 1.1


@pytest.fixture
def tools(monkeypatch):
    """Modules of torch-fidelity and pytorch-fid; torchvision, which they need for files alone, is
    not.
    """
    for name in ("", ".transforms", ".transforms.functional", ".datasets", ".models",
                 ".models.vgg"):
        monkeypatch.setitem(sys.modules, f"torchvision{name}", mock.MagicMock())

    def load(name):
        pytest.importorskip(name.split(".")[0], reason="pip install --no-deps torch-fidelity "
                            "pytorch-fid, to compare with their own functions")
        return importlib.import_module(name)

    return load


def test_against_torch_fidelity(row, exact, tools):
    (pooled, spatial, logits), (pooled_of_data, spatial_of_data, _) = exact
    fid = tools("torch_fidelity.metric_fid")
    for key, a, b in (("fid", pooled, pooled_of_data), ("sfid", spatial, spatial_of_data)):
        statistics = [fid.fid_features_to_statistics(torch.tensor(x)) for x in (a, b)]
        wanted = fid.fid_statistics_to_metric(*statistics, verbose=False)
        assert row[key] == pytest.approx(wanted["frechet_inception_distance"], rel=1e-5)
    score = tools("torch_fidelity.metric_isc").isc_features_to_metric(
        torch.tensor(logits), splits=10, shuffle=False
    )
    assert row["inception_score"] == pytest.approx(score["inception_score_mean"], rel=1e-5)
    kept = [torch.tensor(x.astype(np.float16).astype("f8")) for x in (pooled, pooled_of_data)]
    found = tools("torch_fidelity.metric_prc").prc_features_to_metric(
        *kept, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    assert row["precision"] == pytest.approx(found["precision"], abs=1e-6)
    assert row["recall"] == pytest.approx(found["recall"], abs=1e-6)


def test_against_pytorch_fid(row, exact, tools):
    distance = tools("pytorch_fid.fid_score").calculate_frechet_distance
    (pooled, *_), (of_data, *_) = exact
    try:
        wanted = distance(pooled.mean(0), np.cov(pooled.T), of_data.mean(0), np.cov(of_data.T))
    except TypeError:
        pytest.skip("this pytorch-fid calls sqrtm with an argument that SciPy 1.18 has not")
    assert row["fid"] == pytest.approx(wanted, rel=1e-5)
