"""VAR's tokenizer against the original's outputs: resizing, phi, encoder, quantiser, decoder."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.models import multiscale, multiscale_vq
from ddjax.models.resize import area_matrix, bicubic_matrix
from tests import var_golden
from tests.golden import (
    LOGITS,
    MAPS,
    RESIZED,
    TABLES,
    arrays,
    assert_all_read,
    assert_close,
    assert_images,
    last,
)

CASE = "var_vqvae"


def ids():
    return np.concatenate([arrays(CASE)[f"idx_{i}"] for i in range(4)], axis=1)


def resized(x_BCHW, matrix):
    return np.einsum("yh,xw,bchw->bcyx", matrix, matrix, x_BCHW)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 10, 13])
def test_enlarging_is_pytorchs_bicubic(size):
    a = arrays(CASE)
    found = resized(a[f"interp_in_{size}"], bicubic_matrix(size, 16))
    assert_close(found, a[f"interp_bicubic_{size}_to_16"], RESIZED)


@pytest.mark.parametrize(
    ("source", "grid", "size"),
    [("interp_in_16", 16, s) for s in (2, 3, 4, 5, 6, 8, 10, 13)]
    + [("interp_in_4x4", 4, s) for s in (1, 2, 3)],
)
def test_shrinking_is_adaptive_average_pooling(source, grid, size):
    a = arrays(CASE)
    found = resized(a[source], area_matrix(grid, size))
    assert_close(found, a[f"interp_area_{grid}_to_{size}"], 1e-6)


def test_the_last_scale_is_not_resized():
    for matrix in (bicubic_matrix(16, 16), area_matrix(16, 16)):
        np.testing.assert_array_equal(matrix, np.eye(16))


@pytest.mark.parametrize("scales", [4, 10, 14])
def test_which_phi_a_scale_goes_through(scales):
    found = multiscale.phi_of_scale(scales)
    np.testing.assert_array_equal(found, arrays(CASE)[f"phi_index_SN{scales}"])


def test_the_nearest_tick_tells_which_phi():
    """For any number of scales, but for those that lie as near to two ticks."""
    ticks = arrays(CASE)["phi_ticks"]
    for count in range(1, 17):
        place = np.arange(count) / max(count - 1, 1)
        distances = np.sort(np.abs(ticks[None] - place[:, None]), axis=1)
        is_clear = distances[:, 1] - distances[:, 0] > TABLES
        found = ticks[list(multiscale.phi_of_scale(count))]
        np.testing.assert_array_equal(np.abs(found - place)[is_clear], distances[is_clear, 0])


@pytest.mark.parametrize("phi", range(4))
def test_phi(phi):
    """The last of four scales goes through the last phi, unresized; turn the table to get each."""
    quantiser = copy.copy(var_golden.tokenizer().quantiser)
    for name in ("phi_weights", "phi_biases"):
        table = jnp.roll(getattr(quantiser, name)[...], 3 - phi, axis=0)
        setattr(quantiser, name, type(quantiser.embedding)(table))
    vectors = last(arrays(CASE)["phi_in"]).reshape(2, 16, 32)
    assert_close(quantiser.spread(vectors, 3), last(arrays(CASE)[f"phi_out_{phi}"]), MAPS)


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
    """After each scale, for code vectors and for any others; and what a teacher reads of them.

    The quantiser makes the maps of its codes on the way.
    """
    a, quantiser = arrays(CASE), var_golden.tokenizer().quantiser
    x = quantiser.codebook[ids()] if kind == "code" else a["cont_BLC"]
    maps = quantiser.maps(jnp.asarray(x))
    np.testing.assert_array_equal(maps[0], 0)
    for scale in range(4):
        assert_close(maps[scale + 1], last(a[f"{kind}_gnai_f_hat_{scale}"]), MAPS)
        if kind == "code":
            assert_close(maps[scale + 1], last(a[f"f_hat_{scale}"]), MAPS)
        wanted = last(a[f"{kind}_gnai_next_{scale}"])
        found = quantiser.shrink(maps[scale + 1], min(scale + 1, 3))
        assert_close(found, wanted.reshape(found.shape), MAPS)
    if kind == "code":
        assert_close(quantiser.inputs(maps[:-1]), a["var_input"], MAPS)


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
    assert_images(var_golden.decode(x), a[f"{kind}_img"])


def test_images_before_the_clamp_and_after_each_scale():
    a, tokenizer = arrays(CASE), var_golden.tokenizer()

    @jax.jit
    def images(tokenizer, maps):
        return tokenizer.decoder(tokenizer.post_quant_conv(maps))

    after_scales = tokenizer.quantiser.maps(tokenizer.codebook[ids()])[1:]
    continuous = tokenizer.quantiser.maps(jnp.asarray(a["cont_BLC"]))[-1]
    found = images(tokenizer, jnp.concatenate([*after_scales, continuous])).reshape(5, 2, 64, 64, 3)
    for image, kind in zip(found[3:], ("code", "cont"), strict=True):
        assert np.abs(image).max() > 1  # so that the clamp is seen
        assert_images(image, a[f"{kind}_img_unclamped"])
    for image, scale in zip(np.clip(found, -1, 1), (0, 1, 2, 3), strict=False):
        assert_images(image, a[f"idxBl_to_img_{scale}"])
    assert_images(np.clip(found[3], -1, 1), a["idxBl_to_img_last"])


@pytest.mark.parametrize(
    ("scales", "message"),
    [((2, 4), "must rise from 1"), ((1, 3, 3, 4), "must rise from 1"), ((), "must rise from 1"),
     ((1, 2), r"the last of scales \(1, 2\) must be image_size / 16 = 4")],
)
def test_scales_that_cannot_be_are_refused(scales, message):
    with pytest.raises(ValueError, match=message):
        multiscale_vq.MultiscaleTokenizerConfig(
            64, 3, 64, 32, 32, (1, 1, 2, 2, 4), 2, 32, scales=scales
        )


def test_no_array_is_left_out(request):
    assert_all_read(request, CASE)
