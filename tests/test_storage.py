"""What is written to disk: model folders, checkpoints, stages. Damage is found and named."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.models.llamagen import LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.runtime import trees
from ddjax.runtime.errors import UserError
from ddjax.storage import checkpoint, files, model_folder


def gpt(seed=0):
    config = LlamaGenConfig(
        vocab_size=8, code_dim=4, grid=2, width=8, layers=2, heads=2, num_classes=3
    )
    return LlamaGenTeacher(config, rngs=nnx.Rngs(seed))


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(bytes(content))


def assert_trees_equal(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_model_folder_comes_back_bit_equal(tmp_path):
    model = gpt()
    model_folder.save(tmp_path / "m", "llamagen", model)
    loaded = model_folder.load(tmp_path / "m")
    assert loaded.config == model.config
    assert_trees_equal(loaded, model)
    ids, label = jnp.zeros((1, 4), jnp.int32), jnp.array([1])
    logits = jax.jit(lambda model: model.logits(ids, label))
    np.testing.assert_array_equal(logits(loaded), logits(model))


def test_saving_twice_gives_the_same_digest(tmp_path):
    for name in "ab":
        model_folder.save(tmp_path / name, "llamagen", gpt())
    model_folder.save(tmp_path / "c", "llamagen", gpt(1))
    a, b, c = (model_folder.saved_digest(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("position", [-1, -500])
def test_a_flipped_byte_in_weights_is_named(tmp_path, position):
    model_folder.save(tmp_path / "m", "llamagen", gpt())
    flip_byte(tmp_path / "m" / "weights.safetensors", position)
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        model_folder.load(tmp_path / "m")


def test_damaged_model_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none is not a model folder: .*config\.json is missing"):
        model_folder.load(tmp_path / "none")
    model_folder.save(tmp_path / "m", "llamagen", gpt())
    file = tmp_path / "m" / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        model_folder.load(tmp_path / "m")
    file.unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        model_folder.load(tmp_path / "m")
    file.write_bytes(whole)
    (tmp_path / "m" / "config.json").write_text('{"kind": "llama')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        model_folder.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m").rename(tmp_path / "model")  # as in the folder of a stage
    with pytest.raises(UserError, match=rf"{tmp_path}/model/config\.json is missing"):
        model_folder.saved_digest(tmp_path)


def test_any_damage_to_the_config_of_a_model_folder_is_refused(tmp_path):
    model_folder.save(tmp_path / "m", "llamagen", gpt())
    file = tmp_path / "m" / "config.json"
    whole = file.read_bytes()
    for position in range(len(whole) - 1):
        flip_byte(file, position)
        with pytest.raises(UserError, match=rf"{file} is damaged .*; move {file.parent} aside"):
            model_folder.load(tmp_path / "m")
        file.write_bytes(whole)
    # One head has the very arrays of two: without the digest nothing would tell.
    about = json.loads(whole)
    for changes in ({}, {"heads": 1}):
        del about["config_sha256"]
        files.write_json(file, {**about, "config": {**about["config"], **changes}})
        with pytest.raises(UserError, match=rf"{file} has no config_sha256, .*; move .*/m aside"):
            model_folder.load(tmp_path / "m")
        about = json.loads(whole)


@pytest.mark.parametrize("content", ["[]", '"text"', "null", "3", "[" * 10**5, "{"])
def test_json_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path}: .*; the file was damaged; do this$"):
        files.read_json(path, "do this")
    with pytest.raises(UserError, match=rf"^{path} is damaged: .*; do this$"):
        files.read_json_with_digest(path, "do this")
    files.write_json_with_digest(path, {"a": 1})
    assert files.read_json_with_digest(path, "do this", keys=("a",)) == {"a": 1}
    with pytest.raises(UserError, match=rf"^{path} has no key b; do this$"):
        files.read_json_with_digest(path, "do this", keys=("a", "b"))


def test_fill_names_all_that_does_not_fit():
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int32), "d": np.zeros(1)}
    template = {name: jnp.zeros((3,)) for name in "abc"}
    with pytest.raises(UserError, match=r"src: d is left over; b is int32\[3\], not float32\[3\]; "
                                        "c is missing"):
        model_folder.fill(template, arrays, "src")


def state(seed):
    return {"w": jax.random.normal(jax.random.key(seed), (300, 40)), "step": jnp.int32(seed)}


def save_steps(folder, steps):
    checkpoints = checkpoint.Checkpoints(folder, keep=3)
    for step in steps:
        checkpoints.save(step, state(step), {"next_index": step})
    checkpoints.close()


def test_a_checkpoint_comes_back_bit_equal(tmp_path):
    save_steps(tmp_path / "c", [1, 2])
    for which, step in (("latest", 2), ("previous", 1)):
        found, position = checkpoint.Checkpoints(tmp_path / "c", 3).restore(state(0), which)
        assert position == {"next_index": step}
        assert_trees_equal(found, state(step))


def restored_step(folder, which):
    checkpoints = checkpoint.Checkpoints(folder, keep=3)
    _, position = checkpoints.restore(state(0), which)
    checkpoints.close()
    return position["next_index"]


def test_going_back_again_goes_on_from_what_was_saved_since(tmp_path):
    """The same command, killed and started again, must not lose a checkpoint each time."""
    save_steps(tmp_path / "c", [1, 2])
    assert restored_step(tmp_path / "c", "previous") == 1
    assert restored_step(tmp_path / "c", "previous") == 1
    save_steps(tmp_path / "c", [2, 3])
    assert restored_step(tmp_path / "c", "previous") == 3
    for path in (tmp_path / "c" / "3" / "about").rglob("*"):
        path.write_text("")
    assert restored_step(tmp_path / "c", "previous") == 2  # a damaged one once more
    assert sorted(p.name for p in (tmp_path / "c_aside").iterdir()) == [
        "2.damaged-1", "3.damaged-1"]


def test_no_checkpoint_is_none_and_no_previous_is_said(tmp_path):
    assert checkpoint.Checkpoints(tmp_path / "c", 3).restore(state(0)) is None
    save_steps(tmp_path / "c", [1])
    with pytest.raises(UserError, match="no checkpoint before the latest"):
        checkpoint.Checkpoints(tmp_path / "c", 3).restore(state(0), "previous")


def test_every_flipped_or_cut_file_of_a_checkpoint_is_refused_or_harmless(tmp_path):
    """Orbax reads flipped data without a word. Ours must name it, or give back the very state."""
    save_steps(tmp_path / "c", [1, 2])
    files = [p for p in sorted((tmp_path / "c" / "2").rglob("*")) if p.is_file()]
    assert len(files) >= 4
    refused = 0
    for path in files:
        whole = path.read_bytes()
        for damage in ("flip", "cut"):
            if damage == "flip" and whole:
                flip_byte(path, len(whole) * 2 // 3)
            else:
                path.write_bytes(whole[: len(whole) // 2])
            try:
                found, _ = checkpoint.Checkpoints(tmp_path / "c", 3).restore(state(0))
                assert_trees_equal(found, state(2))
            except UserError as error:
                refused += 1
                assert str(tmp_path / "c" / "2") in str(error)
                assert "--config.restore=previous" in str(error)
            path.write_bytes(whole)
    assert refused >= 4
    found, _ = checkpoint.Checkpoints(tmp_path / "c", 3).restore(state(0))
    assert_trees_equal(found, state(2))


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    save_steps(tmp_path / "c", [1])
    other = {**state(0), "w": jnp.zeros((300, 41))}
    with pytest.raises(UserError, match=str(tmp_path / "c" / "1")):
        checkpoint.Checkpoints(tmp_path / "c", 3).restore(other)


def test_atomic_leaves_nothing_behind_on_failure(tmp_path):
    (tmp_path / "kept").write_text("old")
    with pytest.raises(OSError, match="full"), files.atomic(tmp_path / "kept") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


@pytest.mark.parametrize("same", [True, False])
def test_atomic_removes_what_a_killed_process_left(tmp_path, same):
    """In a container the next process has the same number as the one that was killed."""
    left = tmp_path / f".m.{os.getpid() if same else 1}.tmp"
    left.mkdir()
    (left / "weights.safetensors").write_text("half")
    others = [".m.2.1.tmp", ".other.1.tmp"]  # of m.2 and of other, being written now
    for other in others:
        (tmp_path / other).touch()
    model_folder.save(tmp_path / "m", "llamagen", gpt())
    model_folder.load(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*others, "m"]


def test_disk_full_is_recognised_in_any_library():
    assert files.is_disk_full(OSError(errno.ENOSPC, "x"))
    assert files.is_disk_full(ValueError("RESOURCE_EXHAUSTED: No space left on device"))
    assert not files.is_disk_full(ValueError("x"))
    later = ValueError("while closing")
    later.__context__ = OSError(errno.ENOSPC, "x")
    assert files.is_disk_full(later)
