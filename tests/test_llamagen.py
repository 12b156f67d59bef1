"""LlamaGen's teachers and tokenizer against the original PyTorch code, through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method import trajectory
from ddjax.method.guidance import Guidance, Guided, truncate
from ddjax.models import condition_embed, llamagen_trunk, transformer
from tests import llamagen_golden
from tests.drawing import keys_of
from tests.golden import (
    GUIDED,
    IMAGES,
    LOGITS,
    TABLES,
    about,
    arrays,
    assert_all_read,
    assert_close,
    assert_images,
    doubled,
    guided,
    last,
    log_softmax,
)
from tests.llamagen_golden import compiled, decode, tokenizer

CLASSES, CAPTIONS, CODES = "llamagen_gpt_c2i", "llamagen_gpt_t2i", "llamagen_vq"


def stepped(teacher, ids, condition):
    """Logits [B, L, V] with the cache, one token at a time, ids given."""
    logits, cache = teacher.prefill(condition, trajectory.no_prefix(len(ids)))
    found = [logits]
    for position in range(ids.shape[1] - 1):
        logits, cache = teacher.step(ids[:, position : position + 1], jnp.int32(position), cache)
        found.append(logits)
    return jnp.concatenate(found, axis=1)


@jax.jit
def inside(teacher, ids, condition):
    """Embeddings, first attention, output of every block, logits; all positions, all ids read."""
    trunk = teacher.trunk
    h, valid = trunk.condition(condition)
    h = jnp.concatenate([h, teacher.token_embed(ids)], axis=1)
    found, h = llamagen_golden.walk(trunk, h, valid)
    return found, trunk.logits(h)


@pytest.mark.parametrize("name, tokens", [(CLASSES, 1), (CAPTIONS, 12)])
def test_rope_table(name, tokens):
    table = transformer.rope_table(grid=4, head_width=64, condition_tokens=tokens)
    assert_close(table, arrays(name)["freqs_cis"], TABLES)


def test_rope():
    a = arrays(CLASSES)
    turned = transformer.apply_rope(jnp.asarray(a["rope_in"]), jnp.asarray(a["freqs_cis"]))
    assert_close(turned, a["rope_out"], 2e-6)


def test_teacher_layer_by_layer():
    a = arrays(CLASSES)
    found, logits = inside(llamagen_golden.model(CLASSES), a["idx"], a["labels"])
    for name, array in found.items():
        assert_close(array[:, :16], a[f"dbg_{name}"], LOGITS)
    assert_close(logits, a["logits_cond_17pos"], LOGITS)


def test_teacher_forced_and_cached_logits():
    a, teacher = arrays(CLASSES), compiled(CLASSES)
    np.testing.assert_array_equal(teacher.null(a["labels"]), a["null_labels"])
    ids = jnp.concatenate([a["idx"]] * 2)
    labels = doubled(teacher, jnp.asarray(a["labels"]))
    forced, raw = teacher.logits(ids, labels), stepped(teacher, ids, labels)
    assert_close(forced, np.concatenate([a["logits_cond"], a["logits_null"]]), LOGITS)
    both = np.concatenate([a["step_logits_raw_cond"], a["step_logits_raw_null"]])
    assert_close(raw, both, LOGITS)
    loss = -np.take_along_axis(log_softmax(forced[:3]), a["idx"][..., None], axis=-1).mean()
    assert_close(loss, a["train_loss_cond"][0], 1e-5)
    for name, guidance in {
        "cfg2": Guidance(2.0),
        "cfg1p75": Guidance(1.75),
        "cfg2_interval5": Guidance(2.0, interval=5),
    }.items():
        wanted = log_softmax(a[f"step_logits_{name}"])
        assert_close(guided(teacher, raw, guidance), wanted, GUIDED)
    assert_close(raw[:3], a["step_logits_cfg1"], LOGITS)


@pytest.mark.parametrize("name", about(CLASSES)["filt"])
def test_truncation(name):
    a, guidance = arrays(CLASSES), Guidance(**about(CLASSES)["filt"][name])
    found = np.exp(truncate(jnp.asarray(a["filt_logits"]), guidance))
    np.testing.assert_array_equal(found == 0, a[f"filt_probs_{name}"] == 0)
    assert_close(found, a[f"filt_probs_{name}"], TABLES)


def caption(a):
    return condition_embed.left_padded(
        jnp.asarray(a["caption_embs_raw"]), jnp.asarray(a["emb_masks_raw"])
    )


def test_captions_are_padded_on_the_left():
    a = arrays(CAPTIONS)
    found = caption(a)
    np.testing.assert_array_equal(found["features"], a["cond"])
    np.testing.assert_array_equal(found["mask"], a["cond_mask"].astype(bool))


def test_padding_is_seen_by_itself_only():
    a = arrays(CAPTIONS)
    mask = jnp.asarray(a["cond_mask"].astype(bool))
    np.testing.assert_array_equal(llamagen_trunk.causal_mask(mask, 28, 28), a["attn_mask_tf"])
    both, wanted = jnp.concatenate([mask, mask]), a["causal_mask_cfg2"]
    np.testing.assert_array_equal(llamagen_trunk.causal_mask(both, 32, 32)[:, 0], wanted)
    cached = llamagen_trunk.causal_mask(both, 1, 27, 20)
    np.testing.assert_array_equal(cached[:, 0, 0], wanted[:, 20, :27])


def test_teacher_on_captions():
    a, teacher = arrays(CAPTIONS), compiled(CAPTIONS)
    both = doubled(teacher, caption(a))
    ids = jnp.concatenate([a["idx"]] * 2)
    forced, raw = teacher.logits(ids, both), stepped(teacher, ids, both)
    for found, kind in ((forced, "logits"), (raw, "step_logits_raw")):
        wanted = np.concatenate([a[f"{kind}_cond"], a[f"{kind}_null"]])
        assert_close(found, wanted, LOGITS)
    for name, scale in (("cfg2", 2.0), ("cfg7p5", 7.5)):
        wanted = log_softmax(a[f"step_logits_{name}"])
        assert_close(guided(teacher, raw, Guidance(scale)), wanted, GUIDED)
    assert_close(raw[:3], a["step_logits_cfg1"], LOGITS)
    found, logits = inside(llamagen_golden.model(CAPTIONS), ids[:, :15], both)
    assert_close(found["embed"][:3, :12], a["caption_proj_cond"], LOGITS)
    prefill = [a[f"prefill_logits_all_raw_{half}"] for half in ("cond", "null")]
    assert_close(logits[:, :12], np.concatenate(prefill), LOGITS)


@pytest.mark.parametrize("name", [CLASSES, CAPTIONS])
def test_greedy_logits(name):
    a, teacher = arrays(name), compiled(name)
    given = jnp.asarray(a["labels"]) if name == CLASSES else caption(a)
    ids = jnp.concatenate([a["greedy_tokens_cfg2"]] * 2)
    raw = teacher.logits(ids, doubled(teacher, given))
    found = guided(teacher, raw, Guidance(2.0))
    np.testing.assert_array_equal(found.argmax(-1), a["greedy_tokens_cfg2"])
    assert_close(found, log_softmax(a["greedy_logits_cfg2"]), GUIDED)


def test_greedy_sampling_on_captions():
    """With one token left to draw, sampling is what the original's arg max gives."""
    a = arrays(CAPTIONS)
    best = Guided(compiled(CAPTIONS), Guidance(2.0, top_k=1))
    ids = trajectory.sample_ids(best, caption(a), keys_of(0, 3), trajectory.no_prefix(3))
    np.testing.assert_array_equal(ids, a["greedy_tokens_cfg2"])


def test_captions_without_a_mask():
    a, teacher = arrays(CAPTIONS), compiled(CAPTIONS)
    given = {"features": jnp.asarray(a["cond"]), "mask": jnp.ones((3, 12), bool)}
    raw = teacher.logits(jnp.concatenate([a["idx"]] * 2), doubled(teacher, given))
    wanted = log_softmax(a["nomask_step_logits_cfg2"])
    assert_close(guided(teacher, raw, Guidance(2.0)), wanted, GUIDED)


def test_tokenizer_encodes():
    a = arrays(CODES)
    assert_close(tokenizer().codebook, a["codebook_l2"], TABLES)

    @jax.jit
    def run(tokenizer, images):
        h = tokenizer.encoder(images)
        return h, tokenizer.quant_conv(h), tokenizer.features(images), tokenizer.encode(images)

    h, z, features, ids = run(tokenizer(), last(a["img"]))
    assert_close(h, last(a["enc_h"]), LOGITS)
    assert_close(z, last(a["z"]), LOGITS)
    assert_close(features.reshape(2, 4, 4, 8), a["z_normalized"], LOGITS)
    np.testing.assert_array_equal(ids.reshape(-1), a["indices"])
    encoder = tokenizer().encoder
    down = encoder.down[0](encoder.conv_in(last(a["img"])))
    assert_close(down[:, 1::3, 1::3], last(a["dbg_enc_down0"]), LOGITS)


def vectors(quant):
    """[B, C, h, w] -> [B, L, C]."""
    return last(quant).reshape(len(quant), -1, quant.shape[1])


def test_tokenizer_decodes():
    a = arrays(CODES)
    codes = tokenizer().codebook[a["indices"].reshape(2, 16)]
    for name in ("quant", "codebook_entry"):
        assert_close(codes, vectors(a[name]), TABLES)
    for x, name in (
        (codes, "dec_from_code"),
        (vectors(a["quant"]), "dec_from_quant"),
        (vectors(a["cont"]), "dec_from_cont"),
        (a["tokens_BLC"], "dec_from_tokens_BLC"),
    ):
        assert_images(decode(x), a[name])


def test_decoder_layer_by_layer():
    a = arrays(CODES)

    @jax.jit
    def run(tokenizer, z):
        decoder = tokenizer.decoder
        found = [decoder.conv_in(tokenizer.post_quant_conv(z))]
        for part in (decoder.middle.res1, decoder.middle.attn, decoder.middle.res2):
            found.append(part(found[-1]))
        return found

    names = ("conv_in", "mid0", "mid1", "mid2")
    for found, name in zip(run(tokenizer(), last(a["cont"])), names, strict=True):
        assert_close(found, last(a[f"dbg_dec_{name}"]), LOGITS)


def test_images_that_are_not_square():
    """`decode` takes vectors of square images only, what is in it takes any."""
    a = arrays(CODES)

    @jax.jit
    def run(tokenizer, images):
        ids = tokenizer.encode(images)
        z = tokenizer.codebook[ids].reshape(1, 4, 2, 8)
        return ids, tokenizer.decoder(tokenizer.post_quant_conv(z))

    ids, images = run(tokenizer(), last(a["img_64x32"]))
    np.testing.assert_array_equal(ids[0], a["indices_64x32"])
    assert_close(images, last(a["dec_64x32"]), IMAGES)


def test_no_array_is_left_out(request):
    assert_all_read(request, CLASSES, CAPTIONS, CODES)
