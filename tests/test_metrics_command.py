"""python -m ddjax.metrics as a user has it: figures, how they were made, warnings, refusals."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from ddjax.models.classifier import Classifier, ClassifierConfig
from ddjax.storage import model_folder
from tests.commands import call

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)


def run(*arguments):
    return call("ddjax.metrics", *arguments)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A net, a folder of pictures and an .npz of others."""
    folder = tmp_path_factory.mktemp("metrics")
    net = Classifier(ClassifierConfig(8, 3, 10, channels=4, features=8), rngs=nnx.Rngs(0))
    model_folder.save(folder / "net", "classifier", net)
    (folder / "data").mkdir()
    for i in range(12):
        levels = RNG.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
        mode = "CMYK" if i == 3 else "RGB"
        name = f"{i}.jpg" if i == 3 else f"{i}.png"
        Image.fromarray(levels).convert(mode).save(folder / "data" / name)
    np.savez(folder / "samples.npz", arr_0=RNG.integers(0, 200, (9, 8, 8, 3), dtype=np.uint8))
    np.savez(folder / "few.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    return folder


def test_figures_and_how_they_were_made(root):
    net = f"--inception={root / 'net'}"
    code, output = run("reference", root / "data", net, f"--output={root / 'stats.npz'}")
    assert code == 0 and f"statistics of the 12 images of {root / 'data'}" in output, output
    assert "converted to RGB: 1 of mode CMYK" in output
    for reference, has_images in (("data", True), ("stats.npz", False)):
        path = root / f"{reference}.json"
        code, output = run(root / "samples.npz", root / reference, net, f"--output={path}")
        assert code == 0, output
        found = json.loads(path.read_text())
        assert found["samples"]["count"] == 9 and found["reference"]["count"] == 12
        assert ("precision" in found["figures"]) == has_images and "fid" not in found["figures"]
        assert f"FD to data     {found['figures']['fd_data']:.4f}" in output
        for text in ("samples.npz: 9 images of 8 x 8 x 3", "classifier is not Inception: the dist",
                     "9 images; of fewer than 10000"):
            assert text in output
        assert ("covariance is singular" in output) == (8 >= 9)
    again = json.loads((root / "data.json").read_text())["figures"]["fd_data"]
    assert found["figures"]["fd_data"] == pytest.approx(again, rel=1e-9)
    assert again > 0


def test_refusals(root):
    net = f"--inception={root / 'net'}"
    (root / "there.json").write_text("{}")
    for arguments, message in (
        ((root / "samples.npz",), "missing arguments: REFERENCE"),
        (("reference", root / "data", net), "--output is missing; name the file to write"),
        ((root / "few.npz", root / "data", net), "few.npz has 3 images; must be at least 4"),
        ((root / "samples.npz", root / "data", net, f"--output={root / 'there.json'}"),
         "there.json exists already; name another file"),
        ((root / "samples.npz", root / "data", net, "--resize=tf1"),
         "--resize=tf1: the net of --inception does not resize"),
        ((root / "nowhere", root / "data", net), "nowhere is missing; give a folder of PNG"),
    ):
        code, output = run(*arguments)
        assert code == 1 and message in output and "Traceback" not in output, output
