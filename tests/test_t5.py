"""The T5 encoder against the PyTorch one of transformers, from its weights and from its files."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.torch import save_file

from conversion.read import shards
from conversion.torch_to_flax import convert
from ddjax.models import t5
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests.commands import call

# Width, heads, width of a head, layers, width inside: heads times their width is not the width.
CASES = {"narrow": (24, 3, 8, 2, 40), "wide": (16, 2, 16, 3, 24), "deep": (32, 4, 4, 5, 64),
         "large": (256, 4, 64, 4, 256)}


def original(name, seed=0, decoder=False):
    """A random model of transformers, livelier than its own start, so that attention matters."""
    width, heads, head_width, layers, hidden = CASES[name]
    config = transformers.T5Config(
        vocab_size=50, d_model=width, d_kv=head_width, d_ff=hidden, num_layers=layers,
        num_heads=heads, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        dropout_rate=0.0,
    )
    torch.manual_seed(seed)
    cls = transformers.T5ForConditionalGeneration if decoder else transformers.T5EncoderModel
    model = cls(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "relative" in name:
                weight.normal_(std=1.0)
    return model


def captions(seed=0, tokens=40):
    """Ids [B, T] and masks [B, T] with 1 to T tokens."""
    rng = np.random.default_rng(seed)
    lengths = np.array([1, 7, 23, tokens])
    mask = np.arange(tokens)[None] < lengths[:, None]
    return np.where(mask, rng.integers(2, 50, size=mask.shape), 0), mask


def features_of(model, ids, mask):
    with torch.no_grad():
        encoder = model.get_encoder()
        out = encoder(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(int)))
    return out.last_hidden_state.numpy()


embed = jax.jit(lambda encoder, ids, mask: encoder.embed_text(ids, mask))


def load(folder, dtype="float32"):
    return model_folder.load(folder, "t5", dtype=dtype)


def converted(model, folder):
    """From one file; the embedding once, as safetensors wants it."""
    tensors = dict(model.state_dict())
    tensors.pop("encoder.embed_tokens.weight", None)
    save_file(tensors, folder / "model.safetensors")
    convert("t5", [folder / "model.safetensors"], folder / "out", None, {})
    return folder / "out"


def assert_features(encoder, model):
    ids, mask = captions()
    found = np.asarray(embed(encoder, ids, mask))
    np.testing.assert_allclose(found[mask], features_of(model, ids, mask)[mask], atol=2e-5)


@pytest.mark.parametrize("name", ["narrow", "wide", "deep"])
def test_features_are_those_of_the_original(name, tmp_path):
    model = original(name)
    assert_features(load(converted(model, tmp_path)), model)


def test_buckets_are_those_of_the_original():
    distance = torch.arange(-500, 501)
    from transformers.models.t5.modeling_t5 import T5Attention  # slow to import

    wanted = T5Attention._relative_position_bucket(distance, True, 32, 128).numpy()
    found = t5.position_buckets(501)
    np.testing.assert_array_equal(found[0], wanted[500:])  # the first query, keys behind it
    np.testing.assert_array_equal(found[-1], wanted[:501])


def test_padding_changes_nothing():
    ids, mask = captions()
    encoder = t5.T5Encoder(t5.T5Config(50, 16, 2, 8, 2, 24, "float32"), rngs=nnx.Rngs(0))
    other = np.where(mask, ids, 9)
    short = embed(encoder, ids[2:3, :23], mask[2:3, :23])
    found, same = (np.asarray(embed(encoder, one, mask)) for one in (ids, other))
    np.testing.assert_allclose(same[mask], found[mask], atol=1e-6)
    np.testing.assert_allclose(short[0], found[2, :23], atol=1e-5)


def test_bfloat16_is_near(tmp_path):
    model = original("narrow")
    ids, mask = captions()
    found = np.asarray(embed(load(converted(model, tmp_path), "bfloat16"), ids, mask))
    assert found.dtype == np.float32
    wanted = features_of(model, ids, mask)
    assert np.abs(found - wanted)[mask].mean() < 0.03 * np.abs(wanted[mask]).mean()


def sharded(folder, tensors, suffix):
    """As the hub has large models: parts, and an index that says which part has what.

    The .bin of T5 has the embedding under three names that share their numbers.
    """
    folder.mkdir()
    names = sorted(tensors, key=lambda name: ("embed" in name or "shared" in name, name))
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    whole = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[suffix]
    where = {}
    for i, part in enumerate(parts):
        file = f"{whole.split('.')[0]}-{i + 1:05}-of-00002.{suffix}"
        chosen = {name: tensors[name] for name in part}
        if suffix == "safetensors":
            save_file({name: tensor.clone() for name, tensor in chosen.items()}, folder / file)
        else:
            torch.save(chosen, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"{whole}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_of_parts_with_a_decoder(suffix, tmp_path):
    """By the command: the decoder is left out, the second name of the embedding is known."""
    model = original("narrow", decoder=True)
    folder = sharded(tmp_path / "flan-t5-tiny", model.state_dict(), suffix)
    code, output = call("conversion/torch_to_flax.py", "--model=t5", f"--checkpoint={folder}/",
                        f"--output={tmp_path / 'out'}")
    assert code == 0, output
    assert_features(load(tmp_path / "out"), model)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_conversion_holds_an_array_at_a_time(suffix, tmp_path):
    """Beside the file, which is mapped: together at most 1.3 times the encoder."""
    model = original("large", decoder=True)
    folder = sharded(tmp_path / "large", model.state_dict(), suffix)
    encoder = 4 * sum(weight.numel() for weight in model.get_encoder().parameters())
    del model
    tracemalloc.start()
    convert("t5", shards(folder), tmp_path / "out", None, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * encoder


def test_the_embedding_under_its_other_name(tmp_path):
    tensors = dict(original("narrow").state_dict())
    both = {**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"] + 1}
    torch.save(both, tmp_path / "both.bin")
    with pytest.raises(UserError, match=r"encoder\.embed_tokens\.weight and shared\.weight differ"):
        convert("t5", [tmp_path / "both.bin"], tmp_path / "out", None, {})
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    torch.save(tensors, tmp_path / "other.bin")
    convert("t5", [tmp_path / "other.bin"], tmp_path / "out", None, {})
    np.testing.assert_array_equal(
        load(tmp_path / "out").embedding[...], tensors["encoder.embed_tokens.weight"]
    )


@pytest.mark.parametrize(("name", "text", "message"), [
    ("readme.md", "", r"holds no checkpoint; needs model\.safetensors, or model\.safetensors\.ind"),
    ("model.safetensors.index.json", "[]", r"index\.json is no index of a checkpoint"),
    ("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}', r"\.\./x\.safe"),
    ("pytorch_model.bin.index.json", '{"weight_map": {"a": "part-1.bin"}}', r"names part-1"),
    ("pytorch_model.bin.index.json", '{"weight_map": {"a": 1}}', r"names 1, which is not beside"),
])
def test_folders_that_hold_something_else_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        shards(tmp_path)


@pytest.mark.parametrize(("name", "millions"), [
    ("small", 35.3), ("base", 109.6), ("large", 341.2), ("xl", 1223.5), ("xxl", 4762),
])
def test_published_sizes(name, millions):
    """Parameters of the encoder by the published checkpoints."""
    model = model_folder.template("t5", t5.T5Config(**t5.SIZES[name]))
    found = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert found / 1e6 == pytest.approx(millions, rel=1e-3)
