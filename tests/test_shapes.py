"""Pictures of shapes: the checker finds what was drawn, and tells what was not."""

import gzip
import json

import numpy as np
import pytest

from configs import shapes as config_file
from ddjax.config import from_dict
from ddjax.data import datasets, shapes
from ddjax.data.shapes import Scene, Thing
from ddjax.runtime.errors import UserError
from ddjax.stages import registry, running
from tests.test_clip_score import SMALL

RED, BLUE = Thing("small", "red", "circle"), Thing("large", "blue", "square")


def picture(scene, seed=0):
    return shapes.draw(scene, np.random.default_rng(seed))


def test_captions():
    assert Scene((RED,), "on the left").caption == "a small red circle on the left"
    assert Scene((RED, BLUE), "left of").caption == (
        "a small red circle left of a large blue square"
    )
    # 2 sizes, 4 colours, 3 shapes; 4 places or relations.
    assert len(shapes.captions()) == len(set(shapes.captions())) == 24 * 4 + 24 * 24 * 4


def test_everything_is_right_in_every_picture():
    rng = np.random.default_rng(0)
    for scene in shapes.scenes():
        assert all(shapes.right(scene, shapes.draw(scene, rng))), scene


def test_noise_and_blur_change_little():
    rng, wrong = np.random.default_rng(0), 0
    for scene in shapes.scenes()[::6]:
        drawn = shapes.draw(scene, rng)
        noisy = np.clip(drawn + 0.03 * rng.normal(size=drawn.shape), 0, 1)
        wrong += not all(shapes.right(scene, noisy))
    assert wrong <= 4  # of 400


@pytest.mark.parametrize(("said", "drawn", "wanted"), [
    (Scene((RED, BLUE), "left of"), Scene((RED, BLUE), "right of"), (1, 1, 1, 0)),
    (Scene((RED, BLUE), "left of"), Scene((RED, BLUE), "above"), (1, 1, 1, 0)),
    (Scene((RED, BLUE), "left of"), Scene((BLUE, RED), "right of"), (1, 1, 1, 1)),
    (Scene((RED, BLUE), "left of"), Scene((RED,), "on the left"), (0, 0, 0, 0)),
    (Scene((RED,), "on the left"), Scene((RED, BLUE), "left of"), (0, 0, 0, 0)),
    (Scene((RED,), "on the left"), Scene((RED,), "at the top"), (1, 1, 1, 0)),
    (Scene((RED,), "on the left"), Scene((RED._replace(colour="blue"),), "on the left"),
     (0, 0, 0, 0)),
    (Scene((RED,), "on the left"), Scene((RED._replace(shape="square"),), "on the left"),
     (1, 0, 1, 1)),
    (Scene((RED,), "on the left"), Scene((RED._replace(size="large"),), "on the left"),
     (1, 1, 0, 1)),
    # Two of a colour are matched as well as they can be.
    (Scene((RED, BLUE._replace(colour="red")), "above"),
     Scene((BLUE._replace(colour="red"), RED), "below"), (1, 1, 1, 1)),
])
def test_what_is_wrong_is_found(said, drawn, wanted):
    for seed in range(10):
        assert tuple(map(int, shapes.right(said, picture(drawn, seed)))) == wanted


def test_an_empty_picture_and_noise_show_nothing():
    scene = Scene((RED,), "on the left")
    assert not any(shapes.right(scene, np.full((32, 32, 3), shapes.GROUND)))
    assert shapes.right(scene, np.random.default_rng(0).uniform(size=(32, 32, 3)))[0] is False


def test_the_data_hold_out_one_caption_in_ten():
    tree = config_file.get_config().to_dict()
    tree["data"]["copies"] = 2
    found = datasets.load(from_dict(tree).data)
    count = 2 * 2400 * 9 // 10
    assert found["image"].shape == (count, 32, 32, 3)
    assert -1 <= found["image"].min() < -0.8 and 0.8 < found["image"].max() <= 1
    assert not shapes.is_held_out(found["condition"]).any()
    assert len(np.unique(found["condition"])) == 2160 and found["label"].max() == 11
    some = np.arange(0, count, 23)
    assert shapes.checked((found["image"][some] + 1) / 2, found["condition"][some]).all()
    first = shapes.scenes()[found["condition"][5]].things[0]
    wanted = 3 * list(shapes.COLOURS).index(first.colour) + shapes.SHAPES.index(first.shape)
    assert found["label"][5] == wanted


@pytest.mark.slow
def test_the_whole_job(tmp_path):
    tree = config_file.get_config().to_dict()
    few = {"steps": 4, "warmup": 1, "batch": 8}
    tree["data"]["copies"] = 1
    for section in (tree["teacher"], tree["distill"]):
        section["train"] |= few
    for section in (tree["tokenizer"], tree["evaluate"]["features"]):
        section["weights"] = "random"
    tree["stages"] = "teacher,pairs,distill,evaluate"
    tree["teacher"]["model"] |= {"layers": 1, "width": 32}
    tree["pairs"] |= {"count": 16, "per_shard": 16, "batch": 8}
    vocabulary = tmp_path / "bpe.txt.gz"
    vocabulary.write_bytes(gzip.compress(b"a title\n"))
    tree["evaluate"] |= {"samples": 20, "batch": 20, "sets": 1, "methods": "student_1step",
                         "clip": {"kind": "clip", "model": SMALL, "weights": "random",
                                  "vocabulary": str(vocabulary)}}
    config = from_dict(tree)
    for stage in registry.chosen(config):
        running.run(config, tmp_path, stage)
    found = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    rows = {row["method"]: row for row in found}
    assert 0 <= rows["student_1step"]["all_right"] <= rows["student_1step"]["colour_right"] <= 1
    assert rows["student_1step"]["all_right_held_out"] is not None
    assert 0 <= rows["student_1step"]["clip_score"] <= 100
    report = (tmp_path / "report.md").read_text()
    assert "| CLIP score |" in report
    assert "| all right, held out |" in report and "captions of which there is no" in report


def test_configs_that_contradict_themselves_are_refused():
    for key, value, message in (
        ("image_size", 16, r"data\.image_size: got 16, must be 32"),
        ("num_classes", 12, r"must be none with data\.num_classes 12"),
    ):
        tree = config_file.get_config().to_dict()
        tree["data"][key] = value
        with pytest.raises(UserError, match=message):
            from_dict(tree)
