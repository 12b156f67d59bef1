"""The converter: nothing lost on the way, the way back, and files that are not what they seem."""

import argparse
import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conversion import follow, tables, torch_to_flax
from conversion.read import read
from conversion.torch_to_flax import convert, restore
from ddjax.runtime.errors import UserError
from ddjax.storage import files, model_folder
from tests.commands import call
from tests.golden_checkpoints import checkpoint

CASES = {
    "llamagen": ("llamagen_gpt_c2i", "model"),
    "llamagen_tokenizer": ("llamagen_vq", "model"),
    "llamagen_student": ("dd_llamagen", "ema"),
}
SMALL = {"vocab": 8, "width": 16, "classes": 3, "hidden": 256}


def state(layers=2, dtype=torch.float32):
    """A tiny teacher in PyTorch's names."""
    generator = torch.Generator().manual_seed(0)
    width, hidden = SMALL["width"], SMALL["hidden"]
    shapes = {
        "cls_embedding.embedding_table.weight": (SMALL["classes"] + 1, width),
        "tok_embeddings.weight": (SMALL["vocab"], width),
        "norm.weight": (width,),
        "output.weight": (SMALL["vocab"], width),
    }
    for i in range(layers):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * width, width),
            f"layers.{i}.attention.wo.weight": (width, width),
            f"layers.{i}.feed_forward.w1.weight": (hidden, width),
            f"layers.{i}.feed_forward.w3.weight": (hidden, width),
            f"layers.{i}.feed_forward.w2.weight": (width, hidden),
            f"layers.{i}.attention_norm.weight": (width,),
            f"layers.{i}.ffn_norm.weight": (width,),
        }
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()
    }


def saved(path, tree):
    torch.save(tree, path)
    return path


def small(file, output, **given):
    return convert("llamagen", [file], output, None, {"num_heads": 2, "grid": 2, **given})


@pytest.mark.parametrize("model", CASES)
def test_there_and_back_is_bit_equal(tmp_path, model):
    name, key = CASES[model]
    convert(model, [checkpoint(name)], tmp_path / "m", None, {"grid": 4})
    restore(tmp_path / "m", tmp_path / "back.pt")
    wanted = torch.load(checkpoint(name), weights_only=True)[key]
    found = torch.load(tmp_path / "back.pt", weights_only=True)
    for place in torch_to_flax.TABLES[model].places:
        assert found[place[0]].keys() == wanted.keys()
        for tensor in wanted:
            torch.testing.assert_close(found[place[0]][tensor], wanted[tensor], rtol=0, atol=0)


def test_what_a_stage_trained_goes_back(tmp_path):
    small(saved(tmp_path / "x.pt", state()), tmp_path / "teacher" / "model")
    restore(tmp_path / "teacher", tmp_path / "back.pt")
    assert torch.load(tmp_path / "back.pt", weights_only=True)["model"].keys() == state().keys()


def test_double_precision_is_refused_since_it_would_be_rounded(tmp_path):
    file = saved(tmp_path / "x.pt", state(dtype=torch.float64))
    with pytest.raises(UserError, match=r"is of torch\.float64; weights are float32, bfloat16 or"):
        small(file, tmp_path / "m")


def test_converting_twice_gives_the_same_digest(tmp_path):
    for name in "ab":
        small(saved(tmp_path / "x.pt", {"model": state()}), tmp_path / name)
    assert model_folder.saved_digest(tmp_path / "a") == model_folder.saved_digest(tmp_path / "b")


def allocated(function):
    """The most memory that Python and numpy had at a time."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_one_array_at_a_time_is_held_beside_the_weights(tmp_path, monkeypatch):
    """The largest is a quarter of all."""
    monkeypatch.setitem(SMALL, "width", 96)
    file = saved(tmp_path / "x.pt", state(layers=60))
    size = file.stat().st_size
    assert allocated(lambda: small(file, tmp_path / "m")) < 0.4 * size
    assert allocated(lambda: restore(tmp_path / "m", tmp_path / "back.pt")) < 1.4 * size


def test_layers_are_stacked_in_order_and_kernels_turned(tmp_path):
    """11 layers: layer 10 comes after layer 9, not after layer 1."""
    source = state(layers=11)
    small(saved(tmp_path / "x.pt", source), tmp_path / "m")
    _, config, arrays = model_folder.read(tmp_path / "m")
    assert (config.layers, config.width, config.num_classes, config.vocab_size) == (11, 16, 3, 8)
    stacked = arrays["trunk/transformer/blocks/attention/wqkv/kernel"]
    for i in range(11):
        wanted = source[f"layers.{i}.attention.wqkv.weight"].numpy().T
        np.testing.assert_array_equal(stacked[i], wanted)


@pytest.mark.parametrize("place", [
    ("model",), ("ema",), ("module",), ("state_dict",), (), ("trainer", "ema_parameters"),
    ("trainer", "var_wo_ddp"),
])
def test_every_nesting_is_read(tmp_path, place):
    tree = state()
    for key in reversed(place):
        tree = {key: tree, "args": argparse.Namespace(model="x"), "steps": 5}
    assert read(saved(tmp_path / "x.pt", tree)).keys() == state().keys()


def test_averaged_weights_are_taken_unless_said_otherwise(tmp_path):
    file = saved(tmp_path / "x.pt", {"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}})
    assert [float(read(file, choice)["w"]) for choice in (None, True, False)] == [1, 1, 0]
    plain = saved(tmp_path / "y.pt", {"model": {"w": torch.zeros(1)}})
    with pytest.raises(UserError, match=r"y\.pt holds no averaged weights; looked at ema, trainer"):
        read(plain, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_exactly(tmp_path, dtype):
    source = state(dtype=dtype)
    safetensors.torch.save_file(source, tmp_path / "x.safetensors")
    small(tmp_path / "x.safetensors", tmp_path / "m")
    restore(tmp_path / "m", tmp_path / "back.pt")
    found = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    for name, tensor in source.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name].to(dtype), tensor)


def test_left_overs_of_sampling_are_ignored_and_give_the_grid(tmp_path):
    extra = {
        "freqs_cis": torch.zeros(1 + 9, 4, 2),
        "layers.0.attention.kv_cache.k_cache": torch.zeros(1),
    }
    file = saved(tmp_path / "x.pt", {"model": state() | extra})
    assert "grid=3" in convert("llamagen", [file], tmp_path / "m", None, {"num_heads": 2})
    assert "grid=2" in small(file, tmp_path / "n")  # the user knows better


@pytest.mark.parametrize("shape", [(), (1, 4, 2), (2, 4), (1 + 8, 4, 2)])
def test_a_rotary_table_of_something_else_is_ignored(tmp_path, shape):
    file = saved(tmp_path / "x.pt", {"model": state() | {"freqs_cis": torch.zeros(shape)}})
    assert "grid=16" in convert("llamagen", [file], tmp_path / "m", None, {"num_heads": 2})


def test_a_fused_tensor_is_cut_and_joined():
    rules = tuple(
        tables.Rule(r"b\.(\d+)\.qkv", f"{{0}}/{name}", tables.LINEAR.of(i, 3))
        for i, name in enumerate("qkv")
    )
    table = tables.Table("llamagen", rules, (), config=None)
    fused = np.arange(24.0, dtype=np.float32).reshape(6, 4)
    targets = {f"7/{name}": (4, 2) for name in "qkv"}
    moves = follow.plan({"b.7.qkv": fused.shape}, table, targets)
    arrays = dict(zip(targets, follow.fill(moves, lambda name: fused, targets), strict=True))
    np.testing.assert_array_equal(arrays["7/k"], fused[2:4].T)
    back = follow.invert(arrays, table)
    assert back.keys() == {"b.7.qkv"}
    np.testing.assert_array_equal(back["b.7.qkv"], fused)
    with pytest.raises(UserError, match=r"b\.7\.qkv is \[5, 4\], not \[6, 4\]"):
        follow.plan({"b.7.qkv": (5, 4)}, table, targets)
    with pytest.raises(UserError, match="nothing fills 8/q"):
        follow.plan({"b.7.qkv": (6, 4)}, table, targets | {"8/q": (4, 2)})


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_what_is_wrong_with_a_file_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = saved(tmp_path / "whole.pt", {"model": state()}).read_bytes()

    def refused(match, tree=None, content=None, suffix="pt"):
        file = tmp_path / f"x.{suffix}"
        file.write_bytes(content) if content is not None else torch.save(tree, file)
        with pytest.raises(UserError, match=match) as error:
            small(file, tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()

    refused(r"x\.pt is damaged, or is no checkpoint", content=whole[:-200])
    refused(r"x\.pt is damaged, or is no checkpoint", content=whole[: len(whole) // 2])
    refused(r"x\.pt is damaged, or is no checkpoint", content=b"not a checkpoint")
    refused(r"x\.pt is damaged, or is no checkpoint", content=b"")
    refused(r"x\.pt is damaged, or is no checkpoint of PyTorch; get it again", content=bytes(1000))
    refused(r"x\.safetensors is damaged", content=whole, suffix="safetensors")
    refused(r"x\.pt holds code \(\w+\.system\)", {"model": state(), "x": Code()})
    assert not Path("pwned").exists()
    refused(r"holds no weights; looked at ema, .* the top", {"optimizer": {"state": {}}})
    nan = state()
    nan["layers.1.attention.wo.weight"][3, 4] = float("nan")
    refused(r"layers\.1\.attention\.wo\.weight holds NaN or infinity", nan)
    nan["layers.1.attention.wo.weight"][3, 4] = float("inf")
    refused(r"layers\.1\.attention\.wo\.weight holds NaN or infinity", nan)
    refused(
        r"layers\.0\.feed_forward\.w2\.weight is \[16, 255\], not \[16, 256\]",
        state() | {"layers.0.feed_forward.w2.weight": torch.zeros(16, 255)},
    )
    refused(r"odd\.name is not known", state() | {"odd.name": torch.zeros(1)})
    refused(r"norm\.weight is of torch\.int64", state() | {"norm.weight": torch.ones(16).long()})
    less = {name: tensor for name, tensor in state().items() if "1.ffn_norm" not in name}
    refused(r"nothing fills trunk/transformer/blocks/mlp_norm/scale of layer 1", less)
    del less["output.weight"]
    refused(r"output\.weight is missing", less)
    for name in ("none", "n" * 300, "."):
        with pytest.raises(UserError, match="is not a file"):
            small(tmp_path / name, tmp_path / "out")


def test_sizes_that_do_not_fit_are_said(tmp_path):
    file = saved(tmp_path / "x.pt", state())
    with pytest.raises(UserError, match="the width 16 is no multiple of 64; say --num_heads"):
        convert("llamagen", [file], tmp_path / "m", None, {})
    with pytest.raises(UserError, match="width 16 is not a multiple of heads 3"):
        small(file, tmp_path / "m", num_heads=3)
    for name, size, most in (("grid", 10**6, 256), ("grid", 0, 256), ("code_dim", -1, 4096)):
        message = rf"--{name}={size}: give whole numbers in 1\.\.{most}"
        with pytest.raises(UserError, match=message):
            small(file, tmp_path / "m", **{name: size})
    for scales in ((1, 10**6), ()):
        with pytest.raises(UserError, match=r"--scales=[\d,]*: give whole numbers in 1\.\.256"):
            convert("var_student", [file], tmp_path / "m", None, {"scales": scales})
    with pytest.raises(UserError, match="--code_dim says nothing about this model; leave it out"):
        convert("llamagen_student", [file], tmp_path / "m", None, {"code_dim": 4})


@pytest.mark.parametrize(("right", "name"), [
    *((model, name) for model, (name, _) in CASES.items()),
    ("var", "var"), ("var_tokenizer", "var_vqvae"), ("var_student", "dd_var"),
])
def test_any_wrong_model_is_named_with_the_right_one(tmp_path, right, name):
    """By names alone: sizes that only the user knows are not said."""
    for wrong in torch_to_flax.TABLES.keys() - {right}:
        with pytest.raises(UserError, match=rf"--model={wrong}; it looks like --model={right}:"):
            convert(wrong, [checkpoint(name)], tmp_path / "m", None, {})


def test_a_student_with_a_tokenizer_beside_it_is_no_teacher(tmp_path):
    files = [checkpoint("dd_var"), checkpoint("var_vqvae")]
    with pytest.raises(UserError, match="--model=var; it looks like --model=var_student: "):
        convert("var", files, tmp_path / "m", None, {"scales": (1, 2, 3, 4)})


def test_what_is_of_no_kind_or_of_the_right_one_is_not_said_to_be_another(tmp_path):
    file = saved(tmp_path / "x.pt", {"a": torch.ones(1), "norm.weight": torch.ones(1)})
    with pytest.raises(UserError, match=r"x\.pt does not fit --model=lpips: it holds no weights"):
        convert("lpips", [file], tmp_path / "m", None, {})
    less = state()
    del less["norm.weight"]
    with pytest.raises(UserError, match=r"x\.pt does not fit --model=llamagen: nothing fills"):
        small(saved(tmp_path / "x.pt", less), tmp_path / "m")


def test_two_files_with_the_same_weights_are_refused(tmp_path):
    """Else the second's would stand under the first's name."""
    a, b = (saved(tmp_path / f"{name}.pt", state()) for name in "ab")
    with pytest.raises(UserError, match=r"a\.pt and \S*b\.pt: both hold cls_embedding\.emb"):
        convert("llamagen", [a, b], tmp_path / "m", None, {"num_heads": 2, "grid": 2})


def test_nothing_is_overwritten_and_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    file = saved(tmp_path / "x.pt", state())
    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match="m is there already; remove it, or give another --output"):
        small(file, tmp_path / "m")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(OSError, match="No space left") as error:
        small(file, tmp_path / "n")
    assert files.is_disk_full(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "x.pt"]


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path):
    file = saved(tmp_path / "x.pt", state())
    with pytest.raises(UserError, match=r"x\.pt/sub/m cannot be written"):
        small(file, file / "sub" / "m")
    nan = torch.full((SMALL["width"],), torch.nan)
    broken = saved(tmp_path / "y.pt", state() | {"norm.weight": nan})
    with pytest.raises(UserError, match=r"norm\.weight holds NaN"):
        small(broken, tmp_path / "new" / "sub" / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pt", "y.pt"]


def test_a_tensor_that_is_marked_negative_is_negated(tmp_path):
    source = state()
    wanted, source["norm.weight"] = -source["norm.weight"], torch._neg_view(source["norm.weight"])
    small(saved(tmp_path / "x.pt", source), tmp_path / "m")
    found = model_folder.read(tmp_path / "m")[2]["trunk/norm/scale"]
    np.testing.assert_array_equal(found, wanted.numpy())


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path):
    huge = state() | {"output.weight": torch.zeros(1).expand(10**6, 128)}
    with pytest.raises(UserError, match=r"output\.weight is no plain tensor"):
        small(saved(tmp_path / "x.pt", huge), tmp_path / "m")
    one = torch.zeros(3 * 16, 16)
    many = state() | {f"layers.{i}.attention.wqkv.weight": one for i in range(400)}
    with pytest.raises(UserError, match=r"z\.pt: its tensors claim \d+ bytes, and the file has"):
        small(saved(tmp_path / "z.pt", many), tmp_path / "m")
    empty = state() | {"output.weight": torch.zeros(0, 128)}
    with pytest.raises(UserError, match=r"output\.weight is \[0, 128\], which holds nothing"):
        small(saved(tmp_path / "y.pt", empty), tmp_path / "m")


def test_a_folder_whose_config_is_not_its_weights_goes_back_to_nothing(tmp_path):
    small(saved(tmp_path / "x.pt", state()), tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    text = config.read_text()

    def rewrite(old, new):
        """With a digest, as if whoever wrote it had been wrong."""
        about = json.loads(text.replace(old, new))
        del about["config_sha256"]
        about["config_sha256"] = files.content_digest(about)
        config.write_text(json.dumps(about))

    rewrite('"layers": 2', '"layers": 12')
    with pytest.raises(UserError, match="blocks/attention/wqkv/kernel is float32"):
        torch_to_flax.restore(tmp_path / "m", tmp_path / "back.pt")
    for damage in (
        lambda: rewrite('"heads"', '"heds"'), lambda: rewrite("float32", "gloat32"),
        lambda: rewrite('"width": 16', '"width": "16"'), lambda: config.write_text("[" * 10**5),
    ):
        damage()
        for use in (model_folder.load, lambda folder: restore(folder, tmp_path / "back.pt")):
            with pytest.raises(UserError, match=r"config\.json is damaged"):
                use(tmp_path / "m")
    config.unlink()
    config.symlink_to(config.name)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        model_folder.load(tmp_path / "m")


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch):
    """As a user types it, beside an accelerator; and one line for what is wrong."""
    file = saved(tmp_path / "tiny.pt", {"model": state()})
    script = Path(torch_to_flax.__file__)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # an accelerator that is in use, or not there
    done = subprocess.run(
        [sys.executable, script, "--model=llamagen", f"--checkpoint={file}",
         f"--output={tmp_path / 'm'}", "--num_heads=2", "--grid=2"],
        capture_output=True, text=True, cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 and "heads=2" in done.stdout
    monkeypatch.undo()
    code, output = call(script, "--model=llamagem", f"--checkpoint={file}")
    assert code == 1 and output.count("\n") == 1 and "llamagem" in output
    code, output = call(script, "--model=llamagen", f"--checkpoint={file}", "--grid=large")
    assert (code, output) == (
        1, "error: flag --grid=large: expected a whole number, got 'large'\n")
