"""The models of a run: a folder that is missing is told with the command that makes it."""

import dataclasses
import importlib
import inspect

import pytest

from conversion.torch_to_flax import TABLES
from ddjax.config.reading import from_dict
from ddjax.models import MODELS
from ddjax.runtime.errors import UserError
from ddjax.stages import running
from ddjax.stages.registry import STAGES
from ddjax.storage import run_models

CONVERTER = "or make it with: python conversion/torch_to_flax.py --model="


def section(file, name, **sizes):
    config = from_dict(importlib.import_module(f"configs.{file}").get_config("tiny").to_dict())
    part = config.student_model if name == "student" else getattr(config, name)
    sizes = dataclasses.replace(part.model, **sizes)
    return dataclasses.replace(part, model=sizes, weights="nowhere/x_1")


@pytest.mark.parametrize(("file", "name", "sizes", "flags"), [
    ("llamagen", "teacher", {}, "llamagen --checkpoint=x_1.pt --grid=4"),
    ("llamagen", "teacher", {"grid": 16, "code_dim": 4},
     "llamagen --checkpoint=x_1.pt --code_dim=4"),
    ("llamagen", "student", {"grid": 16}, "llamagen_student --checkpoint=x_1.pt"),
    ("llamagen", "tokenizer", {}, "llamagen_tokenizer --checkpoint=x_1.pt"),
    ("var", "teacher", {}, "var --checkpoint=x_1.pth --scales=1,2,3,4"),
    ("var", "student", {}, "var_student --checkpoint=x_1.pth --scales=1,2,3,4"),
    ("var", "tokenizer", {}, "var_tokenizer --checkpoint=x_1.pth --scales=1,2,3,4"),
])
def test_how_a_missing_folder_is_made(file, name, sizes, flags):
    with pytest.raises(UserError) as caught:
        run_models.check_weights("config.x.weights", section(file, name, **sizes))
    start = "config.x.weights: nowhere/x_1 is missing; give the folder of a model, "
    assert str(caught.value) == start + CONVERTER + flags


def test_a_perceptual_net_may_also_be_left_out():
    config = from_dict(importlib.import_module("configs.llamagen").get_config("L").to_dict())
    net = dataclasses.replace(config.distill.perceptual_net, weights="nowhere/vgg16")
    instead = ", or set config.distill.perceptual=0 and config.student.split to all groups"
    with pytest.raises(UserError) as caught:
        run_models.check_weights("config.distill.perceptual_net.weights", net)
    command = "lpips --checkpoint=vgg16.pth --linear=vgg.pth"
    assert str(caught.value).endswith(CONVERTER + command + instead)


def test_a_tokenizer_s_perceptual_net_is_left_out_by_its_own_key():
    tree = importlib.import_module("configs.folder").get_config("9").to_dict()
    tree["data"]["directory"] = "images"
    config = from_dict(tree)
    net = dataclasses.replace(config.tokenizer.perceptual_net, weights="nowhere/net")
    with pytest.raises(UserError) as caught:
        run_models.check_weights("config.tokenizer.perceptual_net.weights", net)
    assert str(caught.value).endswith("of a model, or set config.tokenizer.perceptual=0")


def test_published_sizes_are_measured_by_inception(tmp_path, monkeypatch):
    """Without its folder a job is refused before its first stage, which takes days."""
    monkeypatch.setattr(running, "run", lambda *given: pytest.fail("a stage was begun"))
    for name, size in (("llamagen", "L"), ("var", "d16"), ("llamagen_t2i", "XL")):
        config = from_dict(importlib.import_module(f"configs.{name}").get_config(size).to_dict())
        net = config.evaluate.features
        assert (net.kind, config.distill.perceptual_net.kind) == ("inception", "lpips")
        given = {section: dataclasses.replace(getattr(config, section), weights="random")
                 for section in ("tokenizer", "teacher")}
        perceptual = dataclasses.replace(config.distill.perceptual_net, weights="random")
        distill = dataclasses.replace(config.distill, perceptual_net=perceptual)
        text = config.text and dataclasses.replace(config.text, weights="random", pieces="")
        data = dataclasses.replace(config.data, captions="")
        job = dataclasses.replace(config, **given, distill=distill, text=text, data=data)
        with pytest.raises(UserError) as caught:
            running.run_all(job, tmp_path, [STAGES["pairs"], STAGES["distill"]])
        assert str(caught.value) == (
            f"config.evaluate.features.weights: {net.weights} is missing; give the folder of a "
            f"model, {CONVERTER}inception --checkpoint="
            "pt_inception-2015-12-05-6726825d.pth, or leave out the stage evaluate and set "
            "config.distill.validate_every=0"
        )
    assert not list(tmp_path.iterdir())


def test_nobody_published_a_classifier():
    config = from_dict(importlib.import_module("configs.llamagen").get_config("tiny").to_dict())
    net = dataclasses.replace(config.evaluate.features, weights="nowhere/net")
    with pytest.raises(UserError, match=r"is missing; give the folder of a model, or leave"):
        run_models.check_weights("config.evaluate.features.weights", net)


def test_the_converter_knows_what_is_published_and_its_flags():
    published = {kind: cls.published for kind, cls in MODELS.items() if cls.published}
    assert published.keys() == TABLES.keys()
    for kind, about in published.items():
        taken = inspect.signature(TABLES[kind].config).parameters
        assert about.defaults.keys() <= taken.keys(), kind
