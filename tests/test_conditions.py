"""Conditions: classes and captions, by number; captions through every stage."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.config import from_dict
from ddjax.config.reading import plain
from ddjax.config.schema import SampleSection
from ddjax.data import conditions
from ddjax.data.conditions import Classes, Conditioned
from ddjax.data.sources import Arrays
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError
from ddjax.stages import registry, running
from ddjax.storage.pair_store import Store
from tests import tiny
from tests.test_config import changed

TOKENS, WIDTH = 3, 6


def test_classes_take_turns_and_are_their_own_bucket():
    classes = Classes(3)
    numbers = classes.number(np.arange(7))
    np.testing.assert_array_equal(numbers, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(classes.take(numbers), numbers)
    np.testing.assert_array_equal(classes.bucket(numbers), numbers)
    assert classes.buckets == 3 and classes.title(2) == "2"


def test_what_a_user_may_ask_for():
    classes = Classes(3)
    for section, wanted in (
        (SampleSection(labels=(2, 2, 0)), [2, 2, 0]), (SampleSection(count=4), [0, 1, 2, 0]),
    ):
        given, numbers = classes.asked(section)
        assert given is classes
        np.testing.assert_array_equal(numbers, wanted)
    with pytest.raises(UserError, match=r"config\.sample\.labels: got 3, must be in 0\.\.2"):
        classes.asked(SampleSection(labels=(0, 3)))
    with pytest.raises(UserError, match=r"config\.sample\.captions: got 1, but .*sample\.labels"):
        classes.asked(SampleSection(captions=(1,)))


def arrays(count=5, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(TOKENS)[None] < rng.integers(1, TOKENS + 1, size=count)[:, None]
    features = rng.normal(size=(count, TOKENS, WIDTH)).astype(np.float32)
    return {"features": features, "mask": mask,
            "texts": np.array([f"picture {i}" for i in range(count)])}


def saved(path, **changes):
    np.savez(path, **{**arrays(), **changes})
    return path


def test_captions_stand_next_to_the_image(tmp_path):
    """Padded on the left; what stood in the padding is gone."""
    captions = conditions.read_features(saved(tmp_path / "c.npz"), TOKENS, WIDTH)
    given, numbers = arrays(), np.array([4, 1])
    found = captions.take(numbers)
    for row, number in enumerate(numbers):
        tokens = given["mask"][number].sum()
        np.testing.assert_array_equal(found["mask"][row], np.arange(TOKENS) >= TOKENS - tokens)
        np.testing.assert_array_equal(found["features"][row, : TOKENS - tokens], 0)
        np.testing.assert_array_equal(
            found["features"][row, TOKENS - tokens :], given["features"][number, :tokens]
        )
    assert captions.count == 5 and captions.buckets == 1 and captions.title(3) == "picture 3"
    np.testing.assert_array_equal(captions.bucket(numbers), [0, 0])
    with pytest.raises(UserError, match=r"sample\.labels: got 3, but .*config\.sample\.captions"):
        captions.asked(SampleSection(labels=(3,)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"features": np.zeros((5, 3, 7))}, r"features are \[5, 3, 7\], must be \[N, 3, 6\]"),
    ({"features": np.zeros((0, 3, 6))}, r"features are \[0, 3, 6\]"),
    ({"mask": np.ones((5, 2))}, r"mask is \[5, 2\], must be \[5, 3\]"),
    ({"mask": np.array([[0, 1, 1]] * 5)}, r"mask must be true for the first tokens of each row"),
    ({"mask": np.zeros((5, 3))}, r"mask must be true for the first tokens of each row"),
    ({"features": np.full((5, 3, 6), np.nan)}, "features are not all finite"),
    ({"texts": np.array(["one"])}, "1 texts for 5 features"),
    ({"texts": np.array([{}] * 5, object)}, r"cannot be read as \.npz"),
])
def test_files_that_hold_something_else_are_refused(tmp_path, changes, message):
    path = saved(tmp_path / "c.npz", **changes)
    with pytest.raises(UserError, match=rf"config\.data\.captions: {path}.*{message}"):
        conditions.read_features(path, TOKENS, WIDTH)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.npz is missing; give an \.npz file"):
        conditions.read_features(tmp_path / "nowhere.npz", TOKENS, WIDTH)
    path = saved(tmp_path / "c.npz")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        conditions.read_features(path, TOKENS, WIDTH)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="has the arrays other; needs features and mask"):
        conditions.read_features(path, TOKENS, WIDTH)


def test_a_source_gives_what_models_read(tmp_path):
    captions = conditions.read_features(saved(tmp_path / "c.npz"), TOKENS, WIDTH)
    source = Conditioned(Arrays({"condition": np.array([2, 0]), "ids": np.arange(2)}), captions)
    found = source.take(np.array([1, 1, 0]))
    np.testing.assert_array_equal(found["ids"], [1, 1, 0])
    np.testing.assert_array_equal(
        found["condition"]["features"], captions.take(np.array([0, 0, 2]))["features"]
    )


def test_the_null_condition_replaces_those_that_are_dropped():
    drop = jnp.array([True, False])
    np.testing.assert_array_equal(
        conditions.replaced(jnp.array([3, 4]), jnp.array([9, 9]), drop), [9, 4]
    )
    one = {"features": jnp.ones((2, 3, 2)), "mask": jnp.ones((2, 3), bool)}
    null = {"features": jnp.zeros((2, 3, 2)), "mask": jnp.ones((2, 3), bool)}
    found = conditions.replaced(one, null, drop)
    np.testing.assert_array_equal(found["features"][0], 0)
    np.testing.assert_array_equal(found["features"][1], 1)


def caption_config(path):
    tree = tiny.get_config().to_dict()
    sizes = {"num_classes": 0, "caption_tokens": TOKENS, "caption_dim": WIDTH, "layers": 1}
    tree["teacher"]["model"] |= sizes
    tree["data"] |= {"name": "none", "num_classes": 0, "captions": str(path)}
    for section in (tree["tokenizer"], tree["teacher"], tree["evaluate"]["features"]):
        section["weights"] = "random"
    tree["stages"] = "pairs,distill,evaluate,sample"
    tree["evaluate"] |= {"methods": "student_1step,refine_1,skip_4,onestep_all", "samples": 10,
                         "sets": 1, "batch": 5}
    tree["distill"]["perceptual"], tree["student"]["split"] = 0.0, 16
    tree["distill"]["train"] |= {"steps": 2, "batch": 4, "warmup": 1}
    tree["sample"] |= {"captions": "4,0,4", "method": "refine_1"}
    return tree


@pytest.mark.slow
def test_captions_go_through_pairs_distill_evaluate_and_sample(tmp_path, capsys):
    tree = caption_config(saved(tmp_path / "c.npz"))
    config, root = from_dict(tree), tmp_path / "run"
    for stage in registry.chosen(config):
        running.run(config, root, stage)
    pairs = Store(root / "pairs").all()
    np.testing.assert_array_equal(pairs["condition"], np.arange(48) % 5)
    rows = {row["method"]: row for row in json.loads((root / "metrics.json").read_text())["rows"]}
    assert rows["refine_1"]["fd_teacher"] > 0 and rows["refine_1"]["class_accuracy"] is None
    drawn = np.load(next(root.glob("sample/refine_1-seed0-captions4-0-4-*/images.npz")))
    assert (drawn["ids"][0] != drawn["ids"][2]).any()  # the same caption, another noise
    out = Pipeline.from_workdir(root)(captions=[4, 0, 4], method="refine_1", seed=0)
    np.testing.assert_array_equal(out.ids, drawn["ids"])
    assert out.titles == ["picture 4", "picture 0", "picture 4"]
    # Captions that changed since are other settings.
    saved(tmp_path / "c.npz", features=arrays(seed=1)["features"])
    with pytest.raises(UserError, match=r"made by other settings: data\.captions"):
        running.run(config, root, registry.STAGES["distill"])
    capsys.readouterr()


def test_conditions_that_contradict_the_models_are_refused(tmp_path):
    tree = caption_config(tmp_path / "c.npz")
    assert from_dict(plain(from_dict(tree))) == from_dict(tree)
    for section, key, value, message in (
        ("data", "captions", "", r"data\.captions: got none, must be a file of captions"),
        ("data", "num_classes", 5, r"data\.captions: got .*c\.npz, must be none with data\.num"),
        ("evaluate", "methods", "onestep_class", r"got onestep_class, must be onestep_all with"),
        ("data", "name", "digits", r"config\.data\.name: got digits, must be none with data\.capt"),
    ):
        with pytest.raises(UserError, match=message):
            from_dict({**tree, section: {**tree[section], key: value}})
    with pytest.raises(UserError, match=r"num_classes"):
        from_dict(changed("teacher.model.num_classes", 9))
