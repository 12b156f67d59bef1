"""Wrong configs are refused before anything is computed, by the key and by what would be right."""

import importlib
import json

import pytest

from ddjax.config.reading import from_dict, plain
from ddjax.runtime.errors import UserError
from ddjax.stages import registry
from tests import tiny


def changed(key, value):
    tree = tiny.get_config("llamagen_tokenizer").to_dict()
    *path, last = key.split(".")
    part = tree
    for name in path:
        part = part[name]
    part[last] = value
    return tree


def test_the_tiny_config_is_right():
    config = from_dict(tiny.get_config().to_dict())
    assert config.student.steps == (0, 5)
    assert config.groups.count == 16


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sed", 1, r"config\.sed: unknown key; did you mean seed\?"),
        ("teacher.model.widht", 1, r"config\.teacher\.model\.widht: unknown key; .*width"),
        ("seed", "zero", r"config\.seed: expected int, got 'zero'"),
        ("seed", None, r"config\.seed: expected int, got None"),
        ("seed", True, r"config\.seed: expected int, got True"),
        ("guidance.scale", "big", r"config\.guidance\.scale: expected float, got 'big'"),
        ("teacher", 3, r"config\.teacher: expected keys and values, got 3"),
        ("teacher.kind", "gan", r"config\.teacher\.model: unknown kind 'gan'.*llamagen"),
        ("teacher.model.width", 18, r"config\.teacher\.model: .*18 .*heads 2|.*multiple of 4"),
        ("teacher.model.width", 15, r"config\.teacher\.model: width 15 is not a multiple"),
        ("teacher.model.vocab_size", 17, r"teacher\.model\.vocab_size: got 17, must be .*16"),
        ("teacher.model.grid", 5, r"teacher\.model\.grid: got 5, must be the tokenizer's, 4"),
        ("teacher.model.num_classes", 9, r"teacher\.model\.num_classes: got 9, must be 10"),
        ("teacher.label_dropout", 0.0, r"teacher\.label_dropout.*guidance needs a teacher"),
        ("tokenizer.model.vocab_size", 70000, r"vocab_size: got 70000, must be in 1\.\.65536"),
        ("data.copies", 0, r"config\.data\.copies: got 0, must be >= 1"),
        ("tokenizer.model.image_size", 7, r"config\.tokenizer\.model: image_size 7"),
        ("tokenizer.model.channels", 5, r"config\.tokenizer\.model: channels 5"),
        ("student.kind", "var_student", r"student\.kind: got var_student, must be .*llamagen_"),
        ("student.split", 17, r"config\.student\.split: got 17, must be in 0\.\.16"),
        ("student.steps", (0, 16), r"config\.student\.steps: .*below the 16 groups"),
        ("distill.perceptual", 0.0, r"student\.split: got 10, must be 16, all groups"),
        ("evaluate.samples", 3, r"evaluate\.samples: got 3, must be >= 4, neighbours \+ 1"),
        ("evaluate.methods", "", r"evaluate\.methods: got none, must be one or more"),
        ("data.name", "none", r"tokenizer\.weights: got none, must be a model folder: with data"),
        ("data.name", "cats", r"data\.name: got cats, must be one of digits, fashion_mnist, sh"),
        ("data.num_classes", 9, r"config\.teacher\.model\.num_classes: got 10, must be 9"),
        ("data.num_classes", 0, r"config\.data\.captions: got none, must be a file of captions"),
        ("data.captions", "x.npz", r"data\.captions: got x\.npz, must be none with data"),
        ("student.steps", (1,), r"config\.student\.steps: .*rising from 0"),
        ("student.steps", "0,x", r"config\.student\.steps: expected whole numbers, got 'x'"),
        ("evaluate.methods", "magic", r"sampling method 'magic' is unknown; known are teacher_ar"),
        ("evaluate.methods", "skip_16", r"evaluate\.methods: skip_16: can skip 1 to 15"),
        ("evaluate.methods", "student_3step", r"student_3step: student\.steps has 2"),
        ("evaluate.methods", "teacher_involved_6_2", r"teacher_involved_6_2: needs 0 <= first"),
        ("sample.method", "refined", r"sampling method 'refined' is unknown"),
        ("sample.count", 0, r"config\.sample\.count"),
        ("guidance.top_p", 0.0, r"config\.guidance\.top_p: got 0\.0, must be in \(0, 1\]"),
        ("guidance.schedule", "wild", r"config\.guidance\.schedule"),
        ("distill.train.batch", 100, r"distill\.train\.batch: got 100, must be at most .* 48"),
        ("distill.train.learning_rate", -1.0, r"distill\.train\.learning_rate: got -1\.0"),
        ("distill.train.warmup", 12, r"distill\.train\.warmup: got 12, must be in 0\.\.11, below"),
        ("teacher.train.steps", 0, r"teacher\.train\.steps: got 0, must be >= 1"),
        ("flow.order", 9, r"config\.flow\.order"),
        ("profile", "110,100", r"config\.profile: got \(110, 100\), must be two rising"),
        ("mesh.fsdp", 0, r"config\.mesh\.fsdp: got 0, must be >= 1"),
        ("seed", -1, r"config\.seed: got -1, must be in 0\.\.2\^32-1"),
        ("hosts.count", 2, r"config\.hosts\.coordinator: got none, must be HOST:PORT"),
        ("tokenizer.model.blocks", 0, r"config\.tokenizer\.model\.blocks: got 0, must be >= 1"),
        ("tokenizer.model.multipliers", "1,0", r"tokenizer\.model\.multipliers: got 1,0, must be"),
        ("teacher.model.heads", 0, r"config\.teacher\.model\.heads: got 0, must be >= 1"),
        ("teacher.model.dtype", "float8", r"model\.dtype: got float8, must be one of float32, bf"),
        ("tokenizer.model.image_channels", 3, r"tokenizer\.model\.image_channels: got 3, must be "),
        ("guidance.scale", 0.5, r"config\.guidance\.scale: got 0\.5, must be >= 1, which is none"),
        ("guidance.scale", float("nan"), r"config\.guidance\.scale: got nan, must be >= 1"),
        ("guidance.interval", -2, r"config\.guidance\.interval: got -2, must be -1"),
        ("distill.train.b2", 1.5, r"distill\.train\.b2: got 1\.5, must be in \[0, 1\)"),
        ("distill.train.weight_decay", -1.0, r"weight_decay: got -1\.0, must be >= 0"),
        ("teacher.train.learning_rate", float("inf"), r"learning_rate: got inf, must be > 0"),
        ("distill.cross_entropy", -1.0, r"cross_entropy: got -1\.0, must be >= 0, the weight of"),
        ("restore", "best", r"config\.restore: got best, must be latest or previous"),
    ],
)
def test_refused(key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        from_dict(changed(key, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("stages", "message"), [
    ("teacher,fly", r"config\.stages: got fly, must be among tokenizer"),
    ("", r"config\.stages: got none, must be one or more of tokenizer"),
])
def test_unknown_stages_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        registry.chosen(from_dict(changed("stages", stages)))


def test_stages_run_in_their_order():
    config = from_dict(changed("stages", "sample,teacher,tokenizer"))
    assert [stage.name for stage in registry.chosen(config)] == ["tokenizer", "teacher", "sample"]


def test_a_missing_key_is_named():
    tree = tiny.get_config().to_dict()
    del tree["pairs"]["count"]
    with pytest.raises(UserError, match=r"config\.pairs\.count: missing"):
        from_dict(tree)


@pytest.mark.parametrize(
    ("file", "size", "groups"),
    [("llamagen", name, 576 if name in ("XL", "XXL", "3B") else 256)
     for name in ("B", "L", "XL", "XXL", "XXXL", "3B")]
    + [("var", name, 10) for name in ("d16", "d20", "d24", "d30")]
    + [("digits", None, 16), ("fashion_mnist", None, 16), ("fashion_mnist", "64", 64),
       ("fashion_mnist", "256", 256), ("fashion_mnist", "var", 4), ("tfds", "cifar10", 64),
       ("tfds", "flowers", 64), ("tfds", "celeba", 64)],
)
def test_configs_are_right(file, size, groups):
    module = importlib.import_module(f"configs.{file}")
    config = from_dict(module.get_config(*([size] if size else [])).to_dict())
    assert config.groups.count == groups
    assert from_dict(json.loads(json.dumps(plain(config)))) == config


@pytest.mark.parametrize("file", ["llamagen", "var"])
def test_a_size_that_is_not_published_is_refused(file):
    with pytest.raises(UserError, match=rf"configs/{file}\.py:huge: unknown .*; known are .*tiny"):
        importlib.import_module(f"configs.{file}").get_config("huge")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [({"scales": (1, 3, 4)}, r"config\.teacher\.model\.scales: got 1,2,4, must be the tokenizer's, "
                             r"1,3,4, which tokenizer\.model\.scales sets$"),
     ({}, r"config\.teacher\.model\.scales: got 1,2,4, must be the tokenizer's, 4, which "
          r"tokenizer\.model\.image_size sets$")],
)
def test_token_maps_are_the_tokenizers(tokenizer, message):
    tree = tiny.get_config("llamagen_tokenizer").to_dict()
    if tokenizer:
        tree["tokenizer"] |= {"kind": "var_tokenizer"}
        tree["tokenizer"]["model"] |= tokenizer
    tree["teacher"] |= {"kind": "var"}
    tree["teacher"]["model"] = {"vocab_size": 16, "code_dim": 4, "width": 16, "layers": 2,
                                "heads": 2, "num_classes": 10, "scales": "1,2,4"}
    with pytest.raises(UserError, match=message):
        from_dict(tree)


@pytest.mark.parametrize(("argument", "size", "classes"), [("9", 32, 9), ("1,128", 128, 1)])
def test_the_config_of_a_folder(argument, size, classes):
    tree = importlib.import_module("configs.folder").get_config(argument).to_dict()
    with pytest.raises(UserError, match=r"config\.data\.directory: got none, must be the folder"):
        from_dict(tree)
    tree["data"]["directory"] = "mine"
    config = from_dict(tree)
    assert config.teacher.model.num_classes == config.data.num_classes == classes
    assert config.tokenizer.model.image_size == size and config.groups.count == 64
    told_apart = 4 if classes == 1 else classes  # without classes, quarter turns
    assert config.evaluate.features.model.num_classes == told_apart
    tree["evaluate"]["features"]["model"]["num_classes"] = 3
    message = rf"evaluate\.features\.model\.num_classes: got 3, must be {told_apart}, "
    with pytest.raises(UserError, match=message):
        from_dict(tree)


@pytest.mark.parametrize("argument", ["cats", "9,33", "9,", ",32", "-1"])
def test_a_folder_of_no_classes_or_another_size_is_refused(argument):
    with pytest.raises(UserError, match=f"configs/folder.py:{argument}: must be CLASSES"):
        importlib.import_module("configs.folder").get_config(argument)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.name", "tfds:", "got tfds:, must be one of .*folder.*tfds:NAME"),
        ("data.image_channels", 3, "got 3, must be 0, the channels that digits has"),
        ("data.skip_at_most", 1.0, r"got 1\.0, must be in \[0, 1\)"),
        ("tokenizer.perceptual", -0.1, r"got -0\.1, must be >= 0"),
        ("tokenizer.revive_every", -1, "got -1, must be >= 0"),
    ],
)
def test_data_and_tokenizer_that_cannot_be_are_refused(key, value, message):
    with pytest.raises(UserError, match=message):
        from_dict(changed(key, value))


def test_a_perceptual_loss_needs_a_net():
    tree = changed("tokenizer.perceptual", 0.1)
    tree["tokenizer"]["perceptual_net"] = None
    with pytest.raises(UserError, match=r"perceptual_net: got none, must be a feature net"):
        from_dict(tree)


def test_images_of_ones_own_need_channels_and_have_no_copies():
    tree = tiny.get_config().to_dict()
    tree["data"] |= {"name": "folder", "directory": "mine"}
    with pytest.raises(UserError, match=r"data\.image_channels: got 0, must be 1 or 3, for folder"):
        from_dict(tree)
    tree["data"] |= {"image_channels": 1, "copies": 2}
    with pytest.raises(UserError, match=r"data\.copies: got 2, must be 1, for folder"):
        from_dict(tree)
    tree["data"] |= {"image_channels": 3, "copies": 1}
    with pytest.raises(UserError, match=r"image_channels: got 1, must be 3, the data's"):
        from_dict(tree)
