"""Images of a run: recorded, refused when they change, and encoded once."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from ddjax.config import from_dict
from ddjax.data import datasets
from ddjax.models.patch_vq import PatchTokenizer, PatchTokenizerConfig
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import images
from ddjax.storage import model_folder
from tests import tiny
from tests.pictures_folder import folder, picture


@pytest.fixture
def root(tmp_path):
    """A workdir beside 2 x 12 images, one of which cannot be read."""
    folder(tmp_path / "images", {"cat": 12, "dog": 12})
    (tmp_path / "images" / "cat" / "3.png").write_text("no image")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def config(root):
    tree = tiny.get_config().to_dict()
    parts = (tree["tokenizer"], tree["tokenizer"]["perceptual_net"],
             tree["distill"]["perceptual_net"], tree["evaluate"]["features"])
    for part in parts:
        part["model"]["image_channels"] = 3
    for part in (tree["teacher"], *parts[1:]):
        part["model"]["num_classes"] = 2
    tree["data"] |= {
        "name": "folder", "directory": str(root.parent / "images"), "num_classes": 2,
        "image_channels": 3, "cache": str(root.parent / "cache"), "skip_at_most": 0.1,
    }
    return from_dict(tree)


def test_what_is_left_out_is_printed_once_and_listed(root, capsys):
    for _ in range(2):
        images.opened(config(root), root)
    assert capsys.readouterr().out.count("1 of 24 images are left out") == 1
    recorded = json.loads((root / "data.json").read_text())
    assert recorded["images"] == 23 and recorded["classes"] == ["cat", "dog"]
    assert len(recorded["skipped"]) == 1 and "cat/3.png" in recorded["skipped"][0]


def test_other_images_than_the_run_was_begun_with_are_refused(root):
    images.opened(config(root), root)
    picture(99).save(root.parent / "images" / "dog" / "5.png")
    with pytest.raises(UserError, match=r"not the images that .*run was begun with"):
        images.opened(config(root), root)


def coder(root, seed=0):
    sizes = PatchTokenizerConfig(8, 3, 2, 16, 4, 8)
    model = PatchTokenizer(sizes, rngs=nnx.Rngs(seed))
    model_folder.save(root / "tokenizer" / "model", "patch_tokenizer", model)
    return model


def encoded(model, root):
    return jax.jit(lambda images: model.encode(images))(datasets.load(config(root).data)["image"])


@pytest.mark.parametrize("devices", [1, 4])
def test_ids_are_those_of_the_tokenizer_and_are_read_again(root, monkeypatch, devices):
    data, model = images.opened(config(root), root), coder(root)
    (root / "teacher").mkdir()
    with jax.set_mesh(sharding.make_mesh(1, jax.devices()[:devices])):
        found = images.ids(config(root), root / "tokenizer", model, data)
        np.testing.assert_array_equal(found, encoded(model, root))
        # Neither images nor tokenizer are read for the teacher.
        monkeypatch.setattr(images, "over", None)
        again = images.ids(config(root), root / "teacher", model, data)
    np.testing.assert_array_equal(again, found)
    assert isinstance(again, np.memmap)


@pytest.mark.parametrize("wrong", ["damaged", "of another tokenizer"])
def test_ids_that_are_not_right_are_made_again(root, wrong):
    data, model = images.opened(config(root), root), coder(root)
    found = np.array(images.ids(config(root), root / "tokenizer", model, data))
    path = root / "tokenizer" / "ids.npy"
    if wrong == "damaged":
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        wanted = found
    else:
        (root / "tokenizer" / "model").rename(root / "tokenizer" / "aside")
        model = coder(root, seed=1)
        wanted = encoded(model, root)
        assert (wanted != found).any()
    again = images.ids(config(root), root / "tokenizer", model, data)
    np.testing.assert_array_equal(again, wanted)
