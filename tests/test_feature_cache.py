"""The feature cache: what it holds, that it is made once, and what is refused."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.config import from_dict
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features, registry, running
from ddjax.storage import feature_cache, files, run_models
from ddjax.storage.pair_store import Store
from tests.test_captions import job, lines
from tests.test_storage import flip_byte

COUNT = 7


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "PER_SHARD", 3)
    path = lines(tmp_path / "captions.txt", [f"a fox {'of snow ' * i}" for i in range(COUNT)])
    tree = job(path)
    tree["text"]["cache"] = str(tmp_path / "cache")
    return tree


def computed(tree):
    """Features and masks of all captions, without a cache."""
    given = run_models.conditions(from_dict(tree))
    return given.encode(given.take(np.arange(COUNT)))


def no_encoder(*_):
    raise AssertionError("the encoder was asked for")


def test_features_are_the_encoders_in_bfloat16(tree):
    wanted = computed(tree)
    cached = caption_features.conditions(from_dict(tree))
    found = cached.encode(cached.take(np.arange(COUNT)))
    np.testing.assert_array_equal(found["mask"], wanted["mask"])
    rounded = np.asarray(wanted["features"]).astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found["features"], rounded)
    some = cached.encode(cached.take(np.array([6, 0, 6])))
    np.testing.assert_array_equal(some["features"], rounded[[6, 0, 6]])
    shapes = cached.shapes(3)
    assert {k: (v.shape, v.dtype) for k, v in some.items()} == {
        k: (v.shape, v.dtype) for k, v in shapes.items()
    }
    assert cached.count == COUNT and cached.title(0).startswith("a fox")
    assert cached.of_prompts(["a fox"]).count == 1


def test_it_is_made_once_and_continued(tree, tmp_path, monkeypatch, capsys):
    config, folder = from_dict(tree), tmp_path / "cache"
    caption_features.conditions(config)
    assert "features   of 7 captions made for" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in folder.glob("*.array_record")}
    assert sorted(before) == [f"features-0000{i}.array_record" for i in range(3)]
    (folder / "features-00001.array_record").unlink()
    caption_features.conditions(config)
    assert "features   of 3 captions made for" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.glob("*.array_record")} == before
    monkeypatch.setattr(run_models, "load_model", no_encoder)
    cached = caption_features.conditions(config)
    cached.encode(cached.take(np.arange(COUNT)))
    assert not capsys.readouterr().out


def test_a_shard_that_was_not_finished_leaves_nothing(tree, tmp_path):
    cache = feature_cache.FeatureCache(tmp_path / "x", COUNT, 2)

    def features():
        yield np.zeros((1, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write("features-00000.array_record", features())
    assert not list((tmp_path / "x").glob("*"))


def test_only_what_is_read_is_made(tree):
    cache = feature_cache.FeatureCache(Path(), 200, 2)
    assert [list(numbers) for numbers in cache.shards(4).values()] == [[0, 1, 2], [3, 4, 5]]
    assert list(cache.shards(999).values())[-1] == range(198, 200)
    config = from_dict(tree)  # 16 pairs and 6 samples, in batches of 8 on each of 8 devices
    assert caption_features.captions_read(config, 200, 8) == 16 + 8 * 8
    assert caption_features.captions_read(config, 20, 8) == 20


@pytest.mark.parametrize(("section", "key", "value", "named"), [
    ("data", "captions_seed", 3, r"data\.captions_seed"),
    ("text", "clean", "none", r"text\.clean"),
    ("text", "model", {"layers": 1}, r"text\.model\.layers"),
])
def test_a_cache_of_something_else_is_refused(tree, section, key, value, named):
    caption_features.conditions(from_dict(tree))
    old = tree[section][key]
    other = {**tree, section: {**tree[section], key: {**old, **value} if key == "model" else value}}
    message = rf"config\.text\.cache: .*cache holds features of other settings: {named}; give"
    with pytest.raises(UserError, match=message):
        caption_features.conditions(from_dict(other))


def test_a_cache_of_other_captions_is_refused(tree):
    caption_features.conditions(from_dict(tree))
    lines(Path(tree["data"]["captions"]), [f"a bear {i}" for i in range(COUNT)])
    with pytest.raises(UserError, match=r"other settings: data\.captions, text\.pieces; give"):
        caption_features.conditions(from_dict(tree))


def test_damage_is_named(tree, tmp_path):
    config, folder = from_dict(tree), tmp_path / "cache"
    caption_features.conditions(config)
    shards = sorted(folder.glob("*.array_record"))
    whole = shards[1].read_bytes()
    flip_byte(shards[1], 500)
    with pytest.raises(UserError, match=r"features-00001\.array_record is damaged .*move it aside"):
        cached = caption_features.conditions(config)
        cached.take(np.arange(COUNT))
    shards[1].write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"features-00001\.array_record is damaged"):
        caption_features.conditions(config)
    shards[1].write_bytes(shards[2].read_bytes())
    with pytest.raises(UserError, match=r"00001\.array_record is damaged \(1 captions, must be 3"):
        caption_features.conditions(config)
    shards[1].unlink()
    with files.locked(folder / ".lock"), pytest.raises(UserError, match="another config"):
        caption_features.conditions(config)
    other = {**tree, "text": {**tree["text"], "cache": str(folder / "features.json")}}
    with pytest.raises(UserError, match=r"config\.text\.cache: .* is a file; name a folder"):
        caption_features.conditions(from_dict(other))
    (folder / "features.json").unlink()
    with pytest.raises(UserError, match=r"features\.json is missing, so that nothing says"):
        caption_features.conditions(config)


@pytest.mark.slow
def test_pairs_are_those_of_the_same_features_in_a_file(tree, tmp_path, monkeypatch):
    features = {name: np.asarray(array) for name, array in computed(tree).items()}
    rounded = features["features"].astype(jnp.bfloat16).astype(np.float32)
    right = [np.concatenate([row[mask], row[~mask]]) for row, mask in zip(
        rounded, features["mask"], strict=True)]
    np.savez(tmp_path / "c.npz", features=np.stack(right), mask=features["mask"][:, ::-1])
    other = {**tree, "text": None, "sample": {"count": 2},
             "data": {**tree["data"], "captions": str(tmp_path / "c.npz")}}
    stage = registry.STAGES["pairs"]
    running.run(from_dict(tree), tmp_path / "cached", stage)
    running.run(from_dict(other), tmp_path / "given", stage)
    found, wanted = (Store(tmp_path / name / "pairs").all()["ids"] for name in ("cached", "given"))
    np.testing.assert_array_equal(found, wanted)
    monkeypatch.setattr(run_models, "load_model", lambda section, where, *rest: (
        no_encoder() if "text" in where else run_models_load(section, where, *rest)))
    for name in ("distill", "evaluate"):
        running.run(from_dict(tree), tmp_path / "cached", registry.STAGES[name])


run_models_load = run_models.load_model
