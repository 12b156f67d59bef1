"""The models of a run: a folder that is missing is told with the command that makes it."""

import dataclasses
import importlib
import inspect

import pytest

from conversion.torch_to_flax import TABLES
from ddjax.config.reading import from_dict
from ddjax.models import MODELS
from ddjax.runtime.errors import UserError
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


def test_nobody_published_a_classifier():
    config = from_dict(importlib.import_module("configs.llamagen").get_config("tiny").to_dict())
    net = dataclasses.replace(config.evaluate.features, weights="nowhere/net")
    with pytest.raises(UserError, match=r"nowhere/net is missing; give the folder of a model$"):
        run_models.check_weights("config.evaluate.features.weights", net)


def test_the_converter_knows_what_is_published_and_its_flags():
    published = {kind: cls.published for kind, cls in MODELS.items() if cls.published}
    assert published.keys() == TABLES.keys()
    for kind, about in published.items():
        taken = inspect.signature(TABLES[kind].config).parameters
        assert about.defaults.keys() <= taken.keys(), kind
