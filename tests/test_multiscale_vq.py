"""VAR's tokenizer against the original's outputs: resizing, phi, encoder, quantiser, decoder."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.models import multiscale, multiscale_vq
from tests import var_golden
from tests.golden import IMAGES, LOGITS, arrays, assert_close, last

CASE = "var_vqvae"


def ids():
    return np.concatenate([arrays(CASE)[f"idx_{i}"] for i in range(4)], axis=1)


def resized(x_BCHW, matrix):
    return np.einsum("yh,xw,bchw->bcyx", matrix, matrix, x_BCHW)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 10, 13])
def test_enlarging_is_pytorchs_bicubic(size):
    a = arrays(CASE)
    found = resized(a[f"interp_in_{size}"], multiscale.bicubic_matrix(size, 16))
    assert_close(found, a[f"interp_bicubic_{size}_to_16"], 2e-6)


@pytest.mark.parametrize(
    ("source", "grid", "size"),
    [("interp_in_16", 16, s) for s in (2, 3, 4, 5, 6, 8, 10, 13)]
    + [("interp_in_4x4", 4, s) for s in (1, 2, 3)],
)
def test_shrinking_is_adaptive_average_pooling(source, grid, size):
    a = arrays(CASE)
    found = resized(a[source], multiscale.area_matrix(grid, size))
    assert_close(found, a[f"interp_area_{grid}_to_{size}"], 1e-6)


def test_the_last_scale_is_not_resized():
    for matrix in (multiscale.bicubic_matrix(16, 16), multiscale.area_matrix(16, 16)):
        np.testing.assert_array_equal(matrix, np.eye(16))


@pytest.mark.parametrize("scales", [4, 10, 14])
def test_which_phi_a_scale_goes_through(scales):
    found = multiscale.phi_of_scale(scales)
    np.testing.assert_array_equal(found, arrays(CASE)[f"phi_index_SN{scales}"])


@pytest.mark.parametrize("phi", range(4))
def test_phi(phi):
    """The last of four scales goes through the last phi, unresized; turn the table to get each."""
    quantiser = copy.copy(var_golden.tokenizer().quantiser)
    for name in ("phi_weights", "phi_biases"):
        table = jnp.roll(getattr(quantiser, name)[...], 3 - phi, axis=0)
        setattr(quantiser, name, type(quantiser.embedding)(table))
    vectors = last(arrays(CASE)["phi_in"]).reshape(2, 16, 32)
    assert_close(quantiser.spread(vectors, 3), last(arrays(CASE)[f"phi_out_{phi}"]), 5e-6)


def test_encode():
    a = arrays(CASE)

    @jax.jit
    def encode(model, images):
        h = model.encoder(images)
        return h, model.quant_conv(h), model.encode(images)

    h, f, found = encode(var_golden.tokenizer(), last(a["img"]))
    assert_close(h, last(a["enc_h"]), LOGITS)
    assert_close(f, last(a["f"]), LOGITS)
    np.testing.assert_array_equal(found, ids())


@pytest.mark.parametrize("kind", ["code", "cont"])
def test_maps_and_next_inputs(kind):
    """After each scale, for code vectors and for any others; and what a teacher reads of them."""
    a, quantiser = arrays(CASE), var_golden.tokenizer().quantiser
    x = quantiser.codebook[ids()] if kind == "code" else a["cont_BLC"]
    maps = quantiser.maps(jnp.asarray(x))
    np.testing.assert_array_equal(maps[0], 0)
    for scale in range(4):
        assert_close(maps[scale + 1], last(a[f"{kind}_gnai_f_hat_{scale}"]), 5e-6)
        wanted = last(a[f"{kind}_gnai_next_{scale}"])
        found = quantiser.shrink(maps[scale + 1], min(scale + 1, 3))
        assert_close(found, wanted.reshape(found.shape), 5e-6)
    if kind == "code":
        assert_close(quantiser.inputs(maps[:-1]), a["var_input"], 5e-6)


def test_maps_of_the_first_scales_are_those_of_all():
    quantiser = var_golden.tokenizer().quantiser
    x = jnp.asarray(arrays(CASE)["cont_BLC"])
    for whole, part in zip(quantiser.maps(x), quantiser.maps(x[:, :5]), strict=False):
        np.testing.assert_array_equal(whole, part)
    assert quantiser.inputs(quantiser.maps(x[:, :0])).shape == (2, 0, 32)


@pytest.mark.parametrize("kind", ["code", "cont"])
def test_decode(kind):
    a = arrays(CASE)
    x = var_golden.tokenizer().codebook[ids()] if kind == "code" else a["cont_BLC"]
    wanted = last(a[f"{kind}_img_unclamped"])
    assert np.abs(wanted).max() > 1  # so that the clamp is seen
    assert_close(var_golden.decode(x), np.clip(wanted, -1, 1), IMAGES)
    assert_close(np.clip(wanted, -1, 1), last(a[f"{kind}_img"]), 0)


@pytest.mark.parametrize(
    ("scales", "message"),
    [((2, 4), "must rise from 1"), ((1, 3, 3, 4), "must rise from 1"), ((), "must rise from 1"),
     ((1, 2), r"the last of scales \(1, 2\) must be image_size / 16 = 4")],
)
def test_scales_that_cannot_be_are_refused(scales, message):
    with pytest.raises(ValueError, match=message):
        multiscale_vq.MultiscaleVQConfig(64, 3, 64, 32, 32, (1, 1, 2, 2, 4), 2, 32, scales=scales)
