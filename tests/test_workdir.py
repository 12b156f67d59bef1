"""Folders of a workdir: settings, inputs, outputs; damage and mixing are refused by name."""

import re

import pytest

from ddjax.config import from_dict
from ddjax.config.reading import plain
from ddjax.runtime.errors import UserError
from ddjax.stages import running
from ddjax.stages.registry import STAGES
from ddjax.storage.workdir import Folder, read_config
from tests import tiny
from tests.test_config import changed
from tests.test_storage import flip_byte

CONFIG = plain(from_dict(tiny.get_config("llamagen_tokenizer").to_dict()))


def stage(root, key=None, value=None, name="teacher"):
    tree = changed(key, value) if key else tiny.get_config("llamagen_tokenizer").to_dict()
    return running.folder(from_dict(tree), root, STAGES[name])


def test_a_workdir_of_other_settings_is_refused_with_the_keys(tmp_path):
    stage(tmp_path).begin(CONFIG)
    stage(tmp_path).begin(CONFIG)
    stage(tmp_path, "teacher.train.log_every", 7).begin(CONFIG)  # does not change what comes out
    stage(tmp_path, "evaluate.samples", 7).begin(CONFIG)  # is not the teacher's
    with pytest.raises(UserError, match=r"teacher\.train\.batch \(there 8, now 9\), use|"
                                        r"teacher\.train\.batch \(there 8, now 9\); use"):
        stage(tmp_path, "teacher.train.batch", 9).begin(CONFIG)
    with pytest.raises(UserError, match=r"seed \(there 0, now 5\)"):
        stage(tmp_path, "seed", 5).begin(CONFIG)


def test_only_the_seed_may_differ_where_a_stage_is_only_read(tmp_path):
    with pytest.raises(UserError, match="stage teacher has not finished; run it first"):
        stage(tmp_path).require("teacher")
    stage(tmp_path).begin(CONFIG)
    with pytest.raises(UserError, match="has not finished"):
        stage(tmp_path).require("teacher")
    stage(tmp_path).finish("done", 1.0, {})
    stage(tmp_path, "seed", 5).require("teacher")
    with pytest.raises(UserError, match=r"teacher\.model\.layers"):
        stage(tmp_path, "teacher.model.layers", 3).require("teacher")


def test_a_finished_stage_is_not_run_again(tmp_path, capsys):
    runs = []
    for _ in range(2):
        folder = stage(tmp_path)
        folder.begin(CONFIG)
        running.make_once(folder, "teacher", {}, lambda: runs.append(1) or "made it")
    assert runs == [1]
    assert "finished before: made it" in capsys.readouterr().out


def finished_stage(root, name, *outputs):
    there = stage(root, name=name)
    there.begin(CONFIG)
    for output in outputs:
        (there.directory / output).parent.mkdir(exist_ok=True)
        (there.directory / output).write_text("made it")
    there.finish("made it", 1.0, {})
    return there


@pytest.mark.parametrize(("name", "output", "advice"), [
    ("evaluate", "../metrics.json", "move {}/evaluate aside"),
    ("distill", "model/weights.safetensors",
     "move {0}/distill/finished.json, and what is left of {0}/distill/model, aside and run stage "
     "distill again (config.stages=distill), which goes on from its last checkpoint"),
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
            running.make_once(there, name, {}, lambda: pytest.fail("run again"))


def test_any_damage_to_the_record_of_a_finished_stage_is_refused(tmp_path):
    there = finished_stage(tmp_path, "teacher")
    path = there.directory / "finished.json"
    whole = path.read_bytes()
    for position in range(0, len(whole) - 1, 3):
        flip_byte(path, position)
        with pytest.raises(UserError, match=f"{path} is damaged"):
            running.make_once(there, "teacher", {}, lambda: "run again")
        path.write_bytes(whole)


def test_a_damaged_settings_file_is_named(tmp_path):
    stage(tmp_path).begin(CONFIG)
    file = tmp_path / "teacher" / "settings.json"
    file.write_text(file.read_text()[:20])
    advice = f"; put it back, or move {tmp_path}/teacher aside and start the same command again$"
    with pytest.raises(UserError, match=r"settings\.json: not readable.*" + advice):
        stage(tmp_path).begin(CONFIG)
    for content in ("[]", '"text"', "null"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"settings\.json: is not a JSON object.*" + advice):
            stage(tmp_path).begin(CONFIG)
    file.unlink()
    stage(tmp_path).begin(CONFIG)  # killed before it was written: nothing else is there
    file.unlink()
    (tmp_path / "teacher" / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"settings\.json is missing beside what .*" + advice):
        stage(tmp_path, "teacher.train.batch", 9).begin(CONFIG)


def test_two_runs_do_not_make_the_same_stage(tmp_path):
    stage, inside = Folder(tmp_path / "pairs", {}), Folder(tmp_path / "pairs", {})
    stage.begin(CONFIG)

    def make():
        with pytest.raises(UserError, match="pairs: another run is at work there; wait for its"):
            running.make_once(inside, "pairs", {}, lambda: pytest.fail("made twice"))
        return "made"

    running.make_once(stage, "pairs", {}, make)
    assert stage.finished["summary"] == "made"
    running.make_once(inside, "pairs", {}, lambda: pytest.fail("made again"))  # no lock is left


def test_a_folder_keeps_the_config_that_made_it(tmp_path):
    assert read_config(tmp_path / "teacher") is None
    stage(tmp_path).begin(CONFIG)
    assert from_dict(read_config(tmp_path / "teacher")) == from_dict(CONFIG)
    flip_byte(tmp_path / "teacher" / "config.json", 99)
    with pytest.raises(UserError, match=r"teacher/config\.json is damaged"):
        read_config(tmp_path / "teacher")


def test_another_output_in_the_place_of_what_was_made_is_refused(tmp_path):
    """Intact in itself, so that only the record of the stage tells."""
    finished = finished_stage(tmp_path, "distill", "model/weights.safetensors")
    digest = finished.require("distill")
    model = finished.directory / "model" / "weights.safetensors"
    model.write_text("made otherwise")
    with pytest.raises(UserError, match=rf"{model} is damaged, or another was put in its place; "):
        finished.require("distill")
    model.write_text("made it")
    assert finished.require("distill") == digest


def test_what_was_made_from_other_inputs_is_refused(tmp_path):
    folder = Folder(tmp_path / "sample" / "x", {})
    folder.begin(CONFIG)
    running.make_once(folder, "sample", {"distill": "one", "teacher": "t"}, lambda: "drawn")
    running.make_once(folder, "sample", {"distill": "one"}, lambda: pytest.fail("drawn again"))
    with pytest.raises(UserError, match=r"sample/x was made with another distill than is there"):
        running.make_once(folder, "sample", {"distill": "two", "teacher": "t"}, lambda: "")
