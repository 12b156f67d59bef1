"""Inception-v3 against plain PyTorch, random weights and statistics through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from conversion.torch_to_flax import convert, restore
from ddjax.benchmark.against_torch import inception
from ddjax.models.inception import Inception, InceptionConfig
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests import inception_torch


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file as published but for its widths, and the model folder of it."""
    tmp = tmp_path_factory.mktemp("inception")
    torch.save(inception_torch.state(divisor=8), tmp / "small.pth")
    convert("inception", [tmp / "small.pth"], tmp / "m", None, {})
    return tmp


def levels(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3))


def images(height, width):
    return jnp.asarray(levels(height, width) / 127.5 - 1, jnp.float32)


def inputs(resize, x):
    """What the network reads; it takes no weights."""
    return model_folder.template("inception", InceptionConfig(resize, divisor=16)).inputs(x)


def measured(folder, dtype=None):
    model = model_folder.load(folder, "inception", dtype=dtype)
    return jax.jit(Inception.measure)(model, images(40, 56))


def assert_pytorchs(found, tensors):
    x = inception_torch.bilinear(levels(40, 56), 299, 299, half_pixel=False)
    x = torch.tensor((x - 128) / 128, dtype=torch.float32).permute(0, 3, 1, 2)
    for ours, theirs in zip(found, inception.network(tensors, x), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert theirs.std() > 1


@pytest.mark.slow
def test_measures_are_pytorchs_and_in_bfloat16_near(small):
    exact, near = measured(small / "m"), measured(small / "m", "bfloat16")
    assert_pytorchs(exact, inception_torch.state(divisor=8))
    for a, b in zip(exact, near, strict=True):
        assert b.dtype == jnp.float32
        assert 0 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.05


@pytest.mark.slow
def test_measures_are_pytorchs_at_full_size(tmp_path):
    tensors = inception_torch.state()
    torch.save(tensors, tmp_path / "full.pth")
    convert("inception", [tmp_path / "full.pth"], tmp_path / "m", None, {})
    assert_pytorchs(measured(tmp_path / "m"), tensors)


@pytest.mark.parametrize("size", [(32, 32), (320, 40)])
def test_inputs_are_those_of_both_tools(size):
    exact = (inception_torch.bilinear(levels(*size), 299, 299, half_pixel=False) - 128) / 128
    np.testing.assert_allclose(inputs("tf1", images(*size)), exact, atol=2e-6)
    x = torch.tensor(levels(*size)).permute(0, 3, 1, 2) / 255
    x = functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    x = (2 * x - 1).permute(0, 2, 3, 1)
    # PyTorch finds the places of pixels in float32.
    np.testing.assert_allclose(inputs("half_pixel", images(*size)), x, atol=1e-4)


def test_grey_images_are_read_as_rgb():
    grey = images(8, 8)[..., :1]
    np.testing.assert_array_equal(inputs("tf1", grey), inputs("tf1", grey.repeat(3, axis=-1)))


def test_the_file_comes_back(small):
    restore(small / "m", small / "back.pth")
    back = torch.load(small / "back.pth", weights_only=True)
    wanted = inception_torch.state(divisor=8)
    assert back.keys() == wanted.keys() and len(back) == 94 * 5 + 2
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


def test_steps_of_training_are_left_out(small):
    tensors = inception_torch.state(divisor=8)
    tensors["Mixed_5b.branch1x1.bn.num_batches_tracked"] = torch.tensor(7)
    torch.save(tensors, small / "steps.pth")
    convert("inception", [small / "steps.pth"], small / "steps", None, {})
    assert model_folder.saved_digest(small / "steps") == model_folder.saved_digest(small / "m")


def without(tensors):
    del tensors["Mixed_7c.branch_pool.bn.running_var"]


def added(tensors):
    tensors["Mixed_5e.branch1x1.conv.weight"] = torch.zeros(8, 8, 1, 1)


def of_torchvision(tensors):
    tensors["fc.weight"] = tensors["fc.weight"][:1000]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without, r"nothing fills units/Mixed_7c\.branch_pool/variance"),
        (added, r"Mixed_5e\.branch1x1\.conv\.weight has no place"),
        (of_torchvision, r"it has 1000 classes.*torchvision's Inception-v3 is another"),
    ],
)
def test_what_does_not_fit_is_named(small, tmp_path, change, said):
    tensors = inception_torch.state(divisor=8)
    change(tensors)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=said):
        convert("inception", [tmp_path / "x.pth"], tmp_path / "m", None, {})


def test_a_folder_serves_both_resizings(small):
    sizes = InceptionConfig(resize="half_pixel", divisor=8)
    assert model_folder.load(small / "m", "inception", sizes).config == sizes
    with pytest.raises(UserError, match="divisor 8, not 1"):
        model_folder.load(small / "m", "inception", InceptionConfig())


@pytest.mark.parametrize("wrong", [{"resize": "bicubic"}, {"divisor": 3}])
def test_sizes_that_are_not_there(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} .*"):
        InceptionConfig(**wrong)
