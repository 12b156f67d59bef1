"""LPIPS against the definition written in PyTorch, random weights through the converter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from conversion.torch_to_flax import convert, restore
from ddjax.models import lpips
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder

CHANNELS = (4, 6, 8, 10, 12)
PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


@pytest.fixture(scope="module")
def tensors():
    """A backbone in torchvision's names and the weights of the distances, both narrow."""
    torch.manual_seed(0)
    backbone, linear, inner = {"classifier.0.weight": torch.zeros(3, 3)}, {}, 3
    for level, (outer, places) in enumerate(zip(CHANNELS, PLACES, strict=True)):
        for place in places:
            backbone[f"features.{place}.weight"] = 0.3 * torch.randn(outer, inner, 3, 3)
            backbone[f"features.{place}.bias"] = 0.1 * torch.randn(outer)
            inner = outer
        linear[f"lin{level}.model.1.weight"] = torch.rand(1, outer, 1, 1)
    return backbone, linear


@pytest.fixture(scope="module")
def model(tensors, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("lpips")
    files = [tmp / "vgg16.pth", tmp / "linear.pth"]
    # torchvision's file is from before PyTorch's zip format.
    torch.save(tensors[0], files[0], _use_new_zipfile_serialization=False)
    torch.save(tensors[1], files[1])
    with pytest.raises(UserError, match="no weights of the distances; say --linear="):
        convert("lpips", files[:1], tmp / "m", None, {})
    convert("lpips", files, tmp / "m", None, {})
    with pytest.raises(UserError, match=r"m is a lpips, which has no way back to PyTorch; llama"):
        restore(tmp / "m", tmp / "back.pt")
    return model_folder.load(tmp / "m")


def wanted(tensors, a, b):
    backbone, linear = tensors
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    total, (x, y) = 0, ((torch.tensor(image).permute(0, 3, 1, 2) - shift) / scale
                        for image in (a, b))
    for level, places in enumerate(PLACES):
        if level:
            x, y = functional.max_pool2d(x, 2), functional.max_pool2d(y, 2)
        for place in places:
            kernel, bias = (backbone[f"features.{place}.{part}"] for part in ("weight", "bias"))
            x, y = (functional.conv2d(z, kernel, bias, padding=1).relu() for z in (x, y))
        units = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
        difference = (next(units) - next(units)).square()
        kernel = linear[f"lin{level}.model.1.weight"]
        total = total + functional.conv2d(difference, kernel).mean(dim=(2, 3))[:, 0]
    return total.numpy()


def test_distance_is_that_of_the_definition(tensors, model):
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32, 3)).astype(np.float32)
    found = jax.jit(model.distance)(a, b)
    np.testing.assert_allclose(found, wanted(tensors, a, b), rtol=1e-5)
    assert found.min() > 0.01


def test_a_black_image_has_a_gradient():
    """Where all channels are 0 the norm is 0, and its plain gradient would be NaN."""
    x = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0, 0].set(2.0)
    gradient = jax.grad(lambda x: lpips._unit(x)[..., 0].sum())(x)
    assert np.isfinite(gradient).all()


def test_bfloat16_is_near_and_returns_float32():
    @functools.partial(jax.jit, static_argnums=2)
    def distance(a, b, dtype):
        model = lpips.LPIPS(lpips.LPIPSConfig((8,), (1,), dtype), rngs=nnx.Rngs(0))
        return model.distance(a, b)

    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8, 3)).astype(np.float32)
    exact, near = (distance(a, b, dtype) for dtype in ("float32", "bfloat16"))
    assert near.dtype == jnp.float32
    assert 0 < np.abs(near / exact - 1)[0] < 0.02
