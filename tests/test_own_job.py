"""The whole job on a folder of colour images, by VAR's models from scratch."""

import json

import pytest

from tests.commands import run
from tests.pictures_folder import folder, picture

pytestmark = pytest.mark.slow
NETS = ("distill.perceptual_net", "evaluate.features", "tokenizer.perceptual_net")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A workdir, its overrides, and what the command printed."""
    root = tmp_path_factory.mktemp("own")
    folder(root / "images", {"cat": 15, "dog": 15})
    (root / "images" / "dog" / "4.png").write_text("no image")
    options = [
        "--config.data.name=folder", f"--config.data.directory={root / 'images'}",
        f"--config.data.cache={root / 'cache'}", "--config.data.image_channels=3",
        "--config.data.skip_at_most=0.1", "--config.data.num_classes=2",
        "--config.teacher.model.num_classes=2", "--config.tokenizer.model.image_channels=3",
        "--config.tokenizer.perceptual=0.1", "--config.tokenizer.entropy=0.0",
        "--config.tokenizer.revive_every=3", "--config.tokenizer.hold_out=True",
        "--config.evaluate.methods=teacher_flow,student_1step,refine_3",
    ]
    options += [f"--config.{net}.model.{key}" for net in NETS
                for key in ("image_channels=3", "num_classes=2")]
    code, output = run(root / "run", *options, config="tests/tiny.py:var_tokenizer")
    assert code == 0, output
    return root, options, output


def test_every_stage_is_made(job):
    root, _, output = job
    rows = {row["method"]: row
            for row in json.loads((root / "run" / "metrics.json").read_text())["rows"]}
    assert rows["refine_3"]["tokens_equal"] == 1 > rows["student_1step"]["tokens_equal"]
    assert rows["student_1step"]["passes"] == 1
    assert "on images it has not seen" in output and "of 16 codes in use" in output


def test_what_was_left_out_is_in_the_workdir(job):
    root, _, output = job
    recorded = json.loads((root / "run" / "data.json").read_text())
    assert recorded["images"] == 29 and "dog/4.png" in recorded["skipped"][0]
    assert "1 of 30 images are left out" in output


def test_drawing_needs_no_images_but_training_on_others_is_refused(job):
    root, options, _ = job
    picture(99).save(root / "images" / "cat" / "new.png")
    aside = (root / "images").rename(root / "aside")
    code, output = run(root / "run", *options, "--config.stages=sample", "--config.sample.count=3",
                       config="tests/tiny.py:var_tokenizer")
    assert code == 0, output
    aside.rename(root / "images")
    (root / "run" / "teacher").rename(root / "run" / "teacher.aside")
    code, output = run(root / "run", *options, "--config.stages=teacher",
                       config="tests/tiny.py:var_tokenizer")
    assert code == 1 and "are not the images that" in output
