"""The pair store: what is in a shard, restarts, damage; and the noise that is never stored."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import keys, pairs
from ddjax.errors import UserError
from tests.test_storage import flip_byte

ABOUT = {"teacher": "abc", "settings": {"seed": 3}, "count": 25, "length": 6}


def rows(first, stop):
    rng = np.random.default_rng(first)
    return np.arange(first, stop) % 7, rng.integers(0, 16384, size=(stop - first, 6))


def fill(directory):
    store = pairs.Store(directory)
    store.create(ABOUT)
    store.write("pairs-00001.array_record", *rows(10, 20))  # in any order
    store.write("pairs-00000.array_record", *rows(0, 10))
    store.write("pairs-00002.array_record", *rows(20, 25))
    return store


def test_pairs_come_back_in_order(tmp_path):
    found = fill(tmp_path).read()
    np.testing.assert_array_equal(found["index"], np.arange(25))
    wanted = [rows(0, 10), rows(10, 20), rows(20, 25)]
    np.testing.assert_array_equal(found["condition"], np.concatenate([c for c, _ in wanted]))
    np.testing.assert_array_equal(found["ids"], np.concatenate([i for _, i in wanted]))


def test_files_are_the_same_bytes_every_time(tmp_path):
    digests = []
    for name in "ab":
        fill(tmp_path / name)
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest()
                        for p in sorted((tmp_path / name).iterdir())])
    assert digests[0] == digests[1] and len(digests[0]) == 4


def test_a_llamagen_pair_takes_at_most_600_bytes(tmp_path):
    store = pairs.Store(tmp_path)
    store.create({**ABOUT, "length": 256})
    ids = np.random.default_rng(0).integers(0, 16384, size=(10_000, 256))
    store.write("pairs-00000.array_record", np.zeros(10_000), ids)
    assert (tmp_path / "pairs-00000.array_record").stat().st_size <= 600 * 10_000


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    store = fill(tmp_path)
    path = tmp_path / "pairs-00001.array_record"
    if damage == "flip":
        flip_byte(path, 700)
    else:
        path.write_bytes(path.read_bytes()[:-10])
    for use in (store.read, lambda: store.create(ABOUT)):
        with pytest.raises(UserError, match=r"pairs-00001\.array_record is damaged; remove"):
            use()


def test_a_missing_shard_is_named_and_can_be_made_anew(tmp_path):
    store = fill(tmp_path)
    (tmp_path / "pairs-00001.array_record").unlink()
    with pytest.raises(UserError, match=r"pairs-00001\.array_record is missing; "):
        store.read()
    assert store.create(ABOUT) == {"pairs-00000.array_record", "pairs-00002.array_record"}
    store.write("pairs-00001.array_record", *rows(10, 20))
    assert len(store.read()["ids"]) == 25


def test_other_settings_are_refused(tmp_path):
    fill(tmp_path)
    assert len(pairs.Store(tmp_path).create(ABOUT)) == 3
    with pytest.raises(UserError, match="another teacher"):
        pairs.Store(tmp_path).create({**ABOUT, "teacher": "xyz"})


def test_an_incomplete_store_is_refused(tmp_path):
    store = pairs.Store(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json is missing; run the stage pairs"):
        store.read()
    store.create(ABOUT)
    store.write("pairs-00000.array_record", *rows(0, 10))
    with pytest.raises(UserError, match="holds 10 of 25 pairs"):
        store.read()


def test_noise_goes_by_its_index_alone():
    """Row i is the same in any batch, and no two rows or purposes share noise."""
    whole = pairs.noise_of(0, jnp.arange(6), 4, 3)
    some = jnp.array([5, 2])
    np.testing.assert_array_equal(pairs.noise_of(0, some, 4, 3), whole[some])
    jitted = jax.jit(pairs.noise_of, static_argnums=(0, 2, 3))(0, jnp.arange(6), 4, 3)
    np.testing.assert_array_equal(jitted, whole)
    other = keys.noise(keys.stream(0, "sample"), jnp.arange(6), 4, 3)
    values = np.concatenate([np.asarray(whole).ravel(), np.asarray(other).ravel(),
                             np.asarray(pairs.noise_of(1, jnp.arange(6), 4, 3)).ravel()])
    assert len(np.unique(values)) == len(values)


def test_noise_is_standard_normal():
    import scipy.stats

    values = np.asarray(pairs.noise_of(0, jnp.arange(2000), 16, 4)).ravel()
    assert scipy.stats.kstest(values, "norm").pvalue > 1e-3


def test_labels_take_turns():
    np.testing.assert_array_equal(pairs.labels_of(jnp.arange(7), 3), [0, 1, 2, 0, 1, 2, 0])
