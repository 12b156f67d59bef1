"""LlamaGen against the original PyTorch code, weights through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import sample, trajectory
from ddjax.guidance import Guidance, Guided, truncate
from ddjax.methods import Method
from ddjax.models import condition, layers, llamagen
from tests import golden
from tests.golden import GUIDED, IMAGES, LOGITS, Compiled, assert_close

CASES = {
    "c2i": ("llamagen_gpt_c2i", "llamagen", {"grid": 4}),
    "t2i": ("llamagen_gpt_t2i", "llamagen", {"grid": 4}),
    "vq": ("llamagen_vq", "llamagen_tokenizer", {"grid": 4}),
    "student": ("dd_llamagen", "llamagen_student", {"grid": 4}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("converted")
    return {
        key: golden.converted(tmp, name, kind, **sizes)
        for key, (name, kind, sizes) in CASES.items()
    }


@pytest.fixture(scope="module")
def teachers(models):
    return {key: Compiled(models[key]) for key in ("c2i", "t2i")}


@pytest.fixture(scope="module")
def student(models):
    return Compiled(models["student"])


@pytest.fixture(scope="module")
def decode(models):
    """Vectors of at most 3 images -> images [B, channels, H, W] and what the decoder has inside."""

    @jax.jit
    def run(tokenizer, x):
        z = tokenizer.post_quant_conv(x.reshape(3, 4, 4, 8))
        inside = [tokenizer.decoder.conv_in(z)]
        middle = tokenizer.decoder.middle
        for part in (middle.res1, middle.attn, middle.res2):
            inside.append(part(inside[-1]))
        return [h.transpose(0, 3, 1, 2) for h in (tokenizer.decode(x), *inside)]

    def padded(x):
        found = run(models["vq"], jnp.pad(x, ((0, 3 - len(x)), (0, 0), (0, 0))))
        return [np.asarray(h[: len(x)]) for h in found]

    return padded


class Recorded:
    """A teacher whose logits are given."""

    def __init__(self, groups, logits):
        self.groups, self._logits = groups, logits

    def null(self, condition):
        return condition

    def logits(self, ids, condition):
        return self._logits


def guided(teacher, raw, guidance):
    """Log-probabilities [B, L, V] from the logits of both halves of the doubled batch."""
    ids, labels = jnp.zeros(raw.shape[:2], jnp.int32), jnp.zeros(len(raw) // 2, jnp.int32)
    return Guided(Recorded(teacher.groups, raw), guidance).log_probs(ids, labels)


def log_softmax(logits):
    return jax.nn.log_softmax(logits.astype(np.float32), axis=-1)


def doubled(teacher, condition):
    return jax.tree.map(lambda *x: jnp.concatenate(x), condition, teacher.null(condition))


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
    length = h.shape[1]
    mask, rope = llamagen.causal_mask(valid, length, length), trunk.rope()[:length]
    found = {"dbg_embed": h}
    for i in range(trunk.transformer.layers):
        block = jax.tree.map(lambda x, i=i: x[i], trunk.transformer.blocks)
        if i == 0:
            normed = block.attention_norm(h)
            found["dbg_block0_attn_out"] = block.attention(normed, rope, mask, None, 0)[0]
        h, _ = block(h, rope, mask, None, 0)
        found[f"dbg_block{i}"] = h
    return found, trunk.logits(h)


def test_rope():
    data = golden.arrays("llamagen_gpt_c2i")
    table = layers.rope_table(grid=4, head_width=64, condition_tokens=1)
    assert_close(table, data["freqs_cis"], 1e-6)
    turned = layers.apply_rope(jnp.asarray(data["rope_in"]), jnp.asarray(table))
    assert_close(turned, data["rope_out"], 2e-6)


def test_teacher_layer_by_layer(models):
    data = golden.arrays("llamagen_gpt_c2i")
    found, logits = inside(models["c2i"], data["idx"], data["labels"])
    for name, array in found.items():
        assert_close(array[:, :16], data[name], LOGITS)
    assert_close(logits, data["logits_cond_17pos"], LOGITS)


def test_teacher_forced_and_cached_logits(teachers):
    data, teacher = golden.arrays("llamagen_gpt_c2i"), teachers["c2i"]
    np.testing.assert_array_equal(teacher.null(data["labels"]), data["null_labels"])
    ids = jnp.concatenate([data["idx"]] * 2)
    labels = doubled(teacher, jnp.asarray(data["labels"]))
    forced, raw = teacher.logits(ids, labels), stepped(teacher, ids, labels)
    assert_close(forced, np.concatenate([data["logits_cond"], data["logits_null"]]), LOGITS)
    both = np.concatenate([data["step_logits_raw_cond"], data["step_logits_raw_null"]])
    assert_close(raw, both, LOGITS)
    loss = -np.take_along_axis(log_softmax(forced[:3]), data["idx"][..., None], axis=-1).mean()
    assert_close(loss, data["train_loss_cond"][0], 1e-5)
    for name, guidance in {
        "cfg2": Guidance(2.0),
        "cfg1p75": Guidance(1.75),
        "cfg2_interval5": Guidance(2.0, interval=5),
    }.items():
        wanted = log_softmax(data[f"step_logits_{name}"])
        assert_close(guided(teacher, raw, guidance), wanted, GUIDED)
    assert_close(raw[:3], data["step_logits_cfg1"], LOGITS)
    ids = jnp.concatenate([data["greedy_tokens_cfg2"]] * 2)
    found = guided(teacher, teacher.logits(ids, labels), Guidance(2.0))
    np.testing.assert_array_equal(found.argmax(-1), data["greedy_tokens_cfg2"])
    assert_close(found, log_softmax(data["greedy_logits_cfg2"]), GUIDED)


@pytest.mark.parametrize("name, guidance", [
    ("k10", Guidance(top_k=10)),
    ("p08", Guidance(top_p=0.8)),
    ("k10p08", Guidance(top_k=10, top_p=0.8)),
    ("T07k20p09", Guidance(temperature=0.7, top_k=20, top_p=0.9)),
    ("k1", Guidance(top_k=1)),
])
def test_truncation(name, guidance):
    data = golden.arrays("llamagen_gpt_c2i")
    found = np.exp(truncate(jnp.asarray(data["filt_logits"]), guidance))
    np.testing.assert_array_equal(found == 0, data[f"filt_probs_{name}"] == 0)
    assert_close(found, data[f"filt_probs_{name}"], 1e-6)


def caption(data):
    return condition.left_padded(
        jnp.asarray(data["caption_embs_raw"]), jnp.asarray(data["emb_masks_raw"])
    )


def test_captions_are_padded_on_the_left():
    data = golden.arrays("llamagen_gpt_t2i")
    found = caption(data)
    np.testing.assert_array_equal(found["features"], data["cond"])
    np.testing.assert_array_equal(found["mask"], data["cond_mask"].astype(bool))


def test_padding_is_seen_by_itself_only():
    data = golden.arrays("llamagen_gpt_t2i")
    mask = jnp.asarray(data["cond_mask"].astype(bool))
    np.testing.assert_array_equal(
        llamagen.causal_mask(mask, 27, 27), data["attn_mask_tf"][:, :, :27, :27]
    )
    cached = llamagen.causal_mask(jnp.concatenate([mask, mask]), 1, 27, 20)
    np.testing.assert_array_equal(cached[:, 0, 0], data["causal_mask_cfg2"][:, 20, :27])


def test_teacher_on_captions(models, teachers):
    data, teacher = golden.arrays("llamagen_gpt_t2i"), teachers["t2i"]
    both = doubled(teacher, caption(data))
    ids = jnp.concatenate([data["idx"]] * 2)
    forced, raw = teacher.logits(ids, both), stepped(teacher, ids, both)
    for found, kind in ((forced, "logits"), (raw, "step_logits_raw")):
        wanted = np.concatenate([data[f"{kind}_cond"], data[f"{kind}_null"]])
        assert_close(found, wanted, LOGITS)
    for name, scale in (("cfg2", 2.0), ("cfg7p5", 7.5)):
        wanted = log_softmax(data[f"step_logits_{name}"])
        assert_close(guided(teacher, raw, Guidance(scale)), wanted, GUIDED)
    assert_close(raw[:3], data["step_logits_cfg1"], LOGITS)
    found, logits = inside(models["t2i"], ids[:, :15], both)
    assert_close(found["dbg_embed"][:3, :12], data["caption_proj_cond"], LOGITS)
    prefill = [data[f"prefill_logits_all_raw_{half}"] for half in ("cond", "null")]
    assert_close(logits[:, :12], np.concatenate(prefill), LOGITS)


def test_greedy_sampling_on_captions(teachers):
    """With one token left to draw, sampling is what the original's arg max gives."""
    data = golden.arrays("llamagen_gpt_t2i")
    best = Guided(teachers["t2i"], Guidance(2.0, top_k=1))
    ids = trajectory.sample_ids(
        best, caption(data), jax.random.key(0), trajectory.no_prefix(3)
    )
    np.testing.assert_array_equal(ids, data["greedy_tokens_cfg2"])


def test_captions_without_a_mask(teachers):
    data, teacher = golden.arrays("llamagen_gpt_t2i"), teachers["t2i"]
    given = {"features": jnp.asarray(data["cond"]), "mask": jnp.ones((3, 12), bool)}
    raw = teacher.logits(jnp.concatenate([data["idx"]] * 2), doubled(teacher, given))
    wanted = log_softmax(data["nomask_step_logits_cfg2"])
    assert_close(guided(teacher, raw, Guidance(2.0)), wanted, GUIDED)


def test_tokenizer_encodes(models):
    data, tokenizer = golden.arrays("llamagen_vq"), models["vq"]
    assert_close(tokenizer.codebook, data["codebook_l2"], 1e-6)

    @jax.jit
    def run(tokenizer, images):
        h = tokenizer.encoder(images)
        return h, tokenizer.quant_conv(h), tokenizer.features(images), tokenizer.encode(images)

    h, z, features, ids = run(tokenizer, data["img"].transpose(0, 2, 3, 1))
    assert_close(h.transpose(0, 3, 1, 2), data["enc_h"], LOGITS)
    assert_close(z.transpose(0, 3, 1, 2), data["z"], LOGITS)
    assert_close(features.reshape(2, 4, 4, 8), data["z_normalized"], LOGITS)
    np.testing.assert_array_equal(ids.reshape(-1), data["indices"])
    down = tokenizer.encoder.down[0](tokenizer.encoder.conv_in(data["img"].transpose(0, 2, 3, 1)))
    assert_close(down.transpose(0, 3, 1, 2), data["dbg_enc_down0"], LOGITS)


def vectors(quant):
    """[B, C, h, w] -> [B, L, C]."""
    return jnp.asarray(quant.reshape(*quant.shape[:2], -1).transpose(0, 2, 1))


def test_tokenizer_decodes(models, decode):
    data = golden.arrays("llamagen_vq")
    codes = models["vq"].codebook[data["indices"].reshape(2, 16)]
    for name in ("quant", "codebook_entry"):
        assert_close(codes, vectors(data[name]), 1e-6)
    for x, name in (
        (codes, "dec_from_code"),
        (vectors(data["quant"]), "dec_from_quant"),
        (jnp.asarray(data["tokens_BLC"]), "dec_from_tokens_BLC"),
    ):
        assert_close(decode(x)[0], data[name], IMAGES)
    images, *inner = decode(vectors(data["cont"]))
    assert_close(images, data["dec_from_cont"], IMAGES)
    for name, found in zip(("conv_in", "mid0", "mid1", "mid2"), inner, strict=True):
        assert_close(found, data[f"dbg_dec_{name}"], LOGITS)


def test_tokenizer_encodes_images_that_are_not_square(models):
    data = golden.arrays("llamagen_vq")
    images = data["img_64x32"].transpose(0, 2, 3, 1)
    ids = jax.jit(lambda tokenizer, images: tokenizer.encode(images))(models["vq"], images)
    np.testing.assert_array_equal(ids[0], data["indices_64x32"])


@pytest.mark.parametrize("name, k", [("t0", 0), ("t5", 5), ("t16", 16), ("tmix", [0, 5, 11])])
def test_student_at_every_k(models, student, name, k):
    data, k = golden.arrays("dd_llamagen"), jnp.asarray(k)
    noise, known = jnp.asarray(data["noise"]), jnp.asarray(data["data"])
    x_k = trajectory.x_at(k, known, noise, student.groups)
    np.testing.assert_array_equal(x_k, data[f"{name}_x_t"])
    logits, found = student(x_k, k, data["labels"])
    assert_close(logits, data[f"{name}_logits"], LOGITS)
    assert_close(found, data[f"{name}_tokens"], LOGITS)
    x = sample.student_sample(
        student, models["vq"].codebook, noise, data["labels"], steps=(k,), split=6, x_BLC=known
    )
    assert_close(x, data[f"{name}_final_x_split6"], LOGITS)


@pytest.mark.parametrize("name, steps", [("1step", (0,)), ("2step", (0, 5)), ("2step_t9", (0, 9))])
def test_student_samples(models, student, decode, name, steps):
    data = golden.arrays("dd_llamagen")
    x = sample.student_sample(
        student, models["vq"].codebook, jnp.asarray(data["noise"]), data["labels"],
        steps=steps, split=6,
    )
    assert_close(x, data[f"{name}_s{len(steps) - 1}_x"], LOGITS)
    assert_close((decode(x)[0] + 1) / 2, data[f"{name}_images01"], IMAGES)


@pytest.mark.parametrize("name, first, last, interval", [
    ("a", 4, 9, -1),
    ("b", 0, 9, -1),
    ("c", 4, 16, -1),
    # The original counts its interval of 1 from the first token that the teacher draws.
    ("d", 4, 9, 5),
    ("e", 8, 12, -1),
])
def test_teacher_involved_samples(
    models, teachers, student, decode, name, first, last, interval
):
    data = golden.arrays("combine_llamagen")
    guidance = Guidance(2.0, interval=interval, top_k=1)
    parts = sample.Parts(models["vq"], teachers["c2i"], student, None)
    settings = sample.Settings((0, 9), 6, guidance, None, 10)
    labels = jnp.asarray(data["labels"])
    x = sample.draw(
        parts, jnp.asarray(data["noise"]), labels, jax.random.key(0),
        method=Method.parse(f"teacher_involved_{first}_{last}"), settings=settings,
    )
    ids = data[f"{name}_teacher_seq"]
    np.testing.assert_array_equal(x[:, :last], models["vq"].codebook[ids])
    if last < 16:
        step = "s1" if first else "s0"
        assert_close(x, data[f"{name}_{step}_x"], LOGITS)
    assert_close((decode(x)[0] + 1) / 2, data[f"{name}_images01"], IMAGES)
    whole = jnp.pad(jnp.concatenate([ids, ids]), ((0, 0), (0, 16 - last)))
    raw = teachers["c2i"].logits(whole, doubled(teachers["c2i"], labels))
    found = guided(teachers["c2i"], raw, Guidance(2.0, interval=interval))[:, first:last]
    assert_close(found, log_softmax(data[f"{name}_teacher_logits"]), GUIDED)
