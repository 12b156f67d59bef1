"""What is written to disk: model folders, checkpoints, stages. Damage is found and named."""

import errno
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax import checkpoint, files, trees, weights, workdir
from ddjax.config_file import from_dict
from ddjax.errors import UserError
from ddjax.models import llamagen
from tests import tiny
from tests.test_config import changed


def gpt(seed=0):
    config = llamagen.GPTConfig(
        vocab_size=8, code_dim=4, grid=2, width=8, layers=2, heads=2, num_classes=3
    )
    return llamagen.Teacher(config, rngs=nnx.Rngs(seed))


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
    weights.save(tmp_path / "m", "llamagen", model)
    loaded = weights.load(tmp_path / "m")
    assert loaded.config == model.config
    assert_trees_equal(loaded, model)
    ids, label = jnp.zeros((1, 4), jnp.int32), jnp.array([1])
    np.testing.assert_array_equal(loaded.logits(ids, label), model.logits(ids, label))


def test_saving_twice_gives_the_same_digest(tmp_path):
    for name in "ab":
        weights.save(tmp_path / name, "llamagen", gpt())
    weights.save(tmp_path / "c", "llamagen", gpt(1))
    a, b, c = (weights.saved_digest(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("position", [-1, -500])
def test_a_flipped_byte_in_weights_is_named(tmp_path, position):
    weights.save(tmp_path / "m", "llamagen", gpt())
    flip_byte(tmp_path / "m" / "weights.safetensors", position)
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        weights.load(tmp_path / "m")


def test_damaged_model_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none is not a model folder: .*config\.json is missing"):
        weights.load(tmp_path / "none")
    weights.save(tmp_path / "m", "llamagen", gpt())
    file = tmp_path / "m" / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        weights.load(tmp_path / "m")
    file.unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        weights.load(tmp_path / "m")
    file.write_bytes(whole)
    (tmp_path / "m" / "config.json").write_text('{"kind": "llama')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        weights.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m").rename(tmp_path / "model")  # as in the folder of a stage
    with pytest.raises(UserError, match=rf"{tmp_path}/model/config\.json is missing"):
        weights.saved_digest(tmp_path)


def test_any_damage_to_the_config_of_a_model_folder_is_refused(tmp_path):
    weights.save(tmp_path / "m", "llamagen", gpt())
    file = tmp_path / "m" / "config.json"
    whole = file.read_bytes()
    for position in range(len(whole) - 1):
        flip_byte(file, position)
        with pytest.raises(UserError, match=rf"{file} is damaged .*; move {file.parent} aside"):
            weights.load(tmp_path / "m")
        file.write_bytes(whole)
    about = json.loads(whole)
    del about["config_sha256"]
    files.write_json(file, about)  # as earlier versions did
    assert_trees_equal(weights.load(tmp_path / "m"), gpt())


def test_fill_names_all_that_does_not_fit():
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int32), "d": np.zeros(1)}
    template = {name: jnp.zeros((3,)) for name in "abc"}
    with pytest.raises(UserError, match=r"src: d is left over; b is int32\[3\], not float32\[3\]; "
                                        "c is missing"):
        weights.fill(template, arrays, "src")


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


def stage(root, key=None, value=None, name="teacher"):
    tree = changed(key, value) if key else tiny.get_config().to_dict()
    return workdir.Stage(root, name, workdir.settings(from_dict(tree), name))


def test_a_workdir_of_other_settings_is_refused_with_the_keys(tmp_path):
    stage(tmp_path).begin()
    stage(tmp_path).begin()
    stage(tmp_path, "teacher.train.log_every", 7).begin()  # does not change what comes out
    stage(tmp_path, "evaluate.samples", 7).begin()  # is not the teacher's
    with pytest.raises(UserError, match=r"teacher\.train\.batch \(there 8, now 9\), use|"
                                        r"teacher\.train\.batch \(there 8, now 9\); use"):
        stage(tmp_path, "teacher.train.batch", 9).begin()
    with pytest.raises(UserError, match=r"seed \(there 0, now 5\)"):
        stage(tmp_path, "seed", 5).begin()


def test_only_the_seed_may_differ_where_a_stage_is_only_read(tmp_path):
    with pytest.raises(UserError, match="stage teacher has not finished; run it first"):
        stage(tmp_path).require()
    stage(tmp_path).begin()
    with pytest.raises(UserError, match="has not finished"):
        stage(tmp_path).require()
    stage(tmp_path).finish("done", 1.0)
    assert stage(tmp_path, "seed", 5).require() == tmp_path / "teacher"
    with pytest.raises(UserError, match=r"teacher\.model\.layers"):
        stage(tmp_path, "teacher.model.layers", 3).require()


def test_a_finished_stage_is_not_run_again(tmp_path, capsys):
    runs = []
    for _ in range(2):
        workdir.run_stage(stage(tmp_path), lambda: runs.append(1) or "made it")
    assert runs == [1]
    assert "finished before: made it" in capsys.readouterr().out


def finished_stage(root, name, *outputs):
    there = stage(root, name=name)
    there.begin()
    for output in outputs:
        (there.directory / output).parent.mkdir(exist_ok=True)
        (there.directory / output).write_text("made it")
    there.finish("made it", 1.0)
    return there


@pytest.mark.parametrize(("name", "output", "advice"), [
    ("evaluate", "../metrics.json", "move {}/evaluate aside"),
    ("distill", "model/weights.safetensors", "move {}/distill aside"),
    ("pairs", "pairs-00000.array_record", "python -m ddjax.pairs repair {}"),
])
def test_a_finished_stage_whose_output_is_damaged_or_missing_is_refused(
    tmp_path, name, output, advice
):
    there = finished_stage(tmp_path, name, output)
    path = (there.directory / output).resolve()
    for damage, problem in ((flip_byte, "is damaged"), (lambda p, _: p.unlink(), "is missing")):
        damage(path, 3)
        message = f"{re.escape(f'{path} {problem}')}.*{re.escape(advice.format(tmp_path))}"
        with pytest.raises(UserError, match=message):
            workdir.run_stage(there, lambda: pytest.fail("run again"))


def test_any_damage_to_the_record_of_a_finished_stage_is_refused(tmp_path):
    there = finished_stage(tmp_path, "teacher")
    path = there.directory / "finished.json"
    whole = path.read_bytes()
    for position in range(0, len(whole) - 1, 3):
        flip_byte(path, position)
        with pytest.raises(UserError, match=f"{path} is damaged"):
            workdir.run_stage(there, lambda: "run again")
        path.write_bytes(whole)


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
    weights.save(tmp_path / "m", "llamagen", gpt())
    weights.load(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*others, "m"]


def test_a_damaged_settings_file_is_named(tmp_path):
    stage(tmp_path).begin()
    file = tmp_path / "teacher" / "settings.json"
    file.write_text(file.read_text()[:20])
    advice = f"; put it back, or move {tmp_path}/teacher aside and start the same command again$"
    with pytest.raises(UserError, match=r"settings\.json: not readable.*" + advice):
        stage(tmp_path).begin()
    file.unlink()
    stage(tmp_path).begin()  # killed before it was written: nothing else is there
    file.unlink()
    (tmp_path / "teacher" / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"settings\.json is missing beside what .*" + advice):
        stage(tmp_path, "teacher.train.batch", 9).begin()


def test_disk_full_is_recognised_in_any_library():
    assert files.is_disk_full(OSError(errno.ENOSPC, "x"))
    assert files.is_disk_full(ValueError("RESOURCE_EXHAUSTED: No space left on device"))
    assert not files.is_disk_full(ValueError("x"))
    later = ValueError("while closing")
    later.__context__ = OSError(errno.ENOSPC, "x")
    assert files.is_disk_full(later)
