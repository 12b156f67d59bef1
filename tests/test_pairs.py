"""The pair store: what is in a shard, restarts, damage; and the noise that is never stored."""

import dataclasses
import functools
import hashlib
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax import pairs as pairs_command
from ddjax.config.reading import from_dict, plain
from ddjax.data.sources import Arrays
from ddjax.method import flow, keys, trajectory
from ddjax.method.flow import Solver
from ddjax.method.guidance import Guidance, Guided
from ddjax.runtime import preemption, trees
from ddjax.runtime.errors import UserError
from ddjax.stages import distill, pair_generation, pairs, registry, running
from ddjax.storage import files, model_folder, pair_store, run_models, workdir
from ddjax.storage.pair_store import Store
from ddjax.training import loop
from tests import tiny
from tests.test_storage import assert_trees_equal, flip_byte

ABOUT = {"teacher": "abc", "settings": {"seed": 3}, "count": 25, "per_shard": 10, "length": 6}


def rows(first, stop):
    rng = np.random.default_rng(first)
    return np.arange(first, stop) % 7, rng.integers(0, 16384, size=(stop - first, 6))


def fill(directory):
    store = Store(directory)
    store.create(ABOUT)
    store.write("pairs-00001.array_record", *rows(10, 20))  # in any order
    store.write("pairs-00000.array_record", *rows(0, 10))
    store.write("pairs-00002.array_record", *rows(20, 25))
    store.merge()
    return store


def test_pairs_come_back_in_order(tmp_path):
    found = fill(tmp_path).all()
    np.testing.assert_array_equal(found["index"], np.arange(25))
    wanted = [rows(0, 10), rows(10, 20), rows(20, 25)]
    np.testing.assert_array_equal(found["condition"], np.concatenate([c for c, _ in wanted]))
    np.testing.assert_array_equal(found["ids"], np.concatenate([i for _, i in wanted]))


@pytest.mark.parametrize("limit", [0, 10_000])
def test_pairs_are_the_same_on_disk_and_in_memory(tmp_path, monkeypatch, limit):
    store, wanted = fill(tmp_path), np.array([23, 0, 9, 10, 23])
    monkeypatch.setattr(pair_store, "IN_MEMORY", limit)
    source = store.source()
    assert isinstance(source, Arrays if limit else pair_store.PairSource)
    found, every = source.take(wanted), store.all()
    assert len(source) == 25 and found.keys() == every.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, every[name][wanted], strict=True)


def test_files_are_the_same_bytes_every_time(tmp_path):
    digests = []
    for name in "ab":
        fill(tmp_path / name)
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest()
                        for p in sorted((tmp_path / name).iterdir())])
    assert digests[0] == digests[1] and len(digests[0]) == 4


def test_a_llamagen_pair_takes_at_most_600_bytes(tmp_path):
    store = Store(tmp_path)
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
    message = (r"pairs-00001\.array_record is damaged; make just these again with: "
               rf"python -m ddjax\.pairs repair {tmp_path.parent}$")
    for use in (store.source, store.verify, lambda: store.create(ABOUT)):
        with pytest.raises(UserError, match=message):
            use()


@pytest.mark.parametrize(("found", "flipped"), [('"count": 25', '"count": 24'), ("abc", "abd")])
def test_a_damaged_manifest_is_named(tmp_path, found, flipped):
    store = fill(tmp_path)
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    assert text.count(found) == 1
    manifest.write_text(text.replace(found, flipped))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: .*move .* aside and run the"):
        store.source()


def test_everything_wrong_is_named_at_once(tmp_path):
    store = fill(tmp_path)
    (tmp_path / "pairs-00000.array_record").unlink()
    flip_byte(tmp_path / "pairs-00001.array_record", 700)
    (tmp_path / "pairs-00007.array_record").write_bytes(b"")
    with pytest.raises(UserError, match=r"pairs-00000\.array_record is missing; .*"
                                        r"pairs-00001\.array_record is damaged; .*"
                                        r"pairs-00007\.array_record is not in the manifest; make"):
        store.verify()


def test_a_missing_shard_is_named_and_can_be_put_back(tmp_path):
    store = fill(tmp_path)
    path = tmp_path / "pairs-00001.array_record"
    before = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"pairs-00001\.array_record is missing; "):
        store.source()
    store.create(ABOUT)
    assert store.problems() == {path.name: "is missing"}
    store.write(path.name, *rows(10, 20))
    assert path.read_bytes() == before
    assert len(store.source()) == 25


def test_only_the_very_same_shard_is_put_back(tmp_path):
    """As if another device computed other ids: refused, and all stays as it was."""
    store = fill(tmp_path)
    flip_byte(tmp_path / "pairs-00001.array_record", 700)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    condition, ids = rows(10, 20)
    ids[3, 2] ^= 1
    with pytest.raises(UserError, match=r"pairs-00001\.array_record: this device makes other"):
        store.write("pairs-00001.array_record", condition, ids)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_settings_are_refused(tmp_path):
    fill(tmp_path)
    Store(tmp_path).create(ABOUT)
    with pytest.raises(UserError, match="another teacher"):
        Store(tmp_path).create({**ABOUT, "teacher": "xyz"})


def test_an_incomplete_store_is_refused(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json is missing; run the stage pairs"):
        store.source()
    store.create(ABOUT)
    store.write("pairs-00000.array_record", *rows(0, 10))
    with pytest.raises(UserError, match=r"pairs-00001.* is missing; .*pairs-00002.* is missing"):
        store.source()


def arrays_of(template):
    """Random arrays for a model, without the compiling that its own start takes."""
    rng = np.random.default_rng(0)
    return {name: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype)
            for name, leaf in trees.flatten(template).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir of pairs, and its config."""
    tree, root = tiny.get_config().to_dict(), tmp_path_factory.mktemp("run")
    tree["seed"], tree["flow"] = 3, {"steps": 4, "order": 2}
    for name in ("tokenizer", "teacher"):
        tree[name]["weights"] = str(root / "weights" / name)
    config = from_dict(tree)
    for section in (config.tokenizer, config.teacher):
        template = model_folder.template(section.kind, section.model)
        model = model_folder.fill(template, arrays_of(template), "random")
        model_folder.save(Path(section.weights), section.kind, model)
    make(config, root)
    return config, root


def make(config, root):
    """The stage in its folder."""
    folder = workdir.Folder(root / "pairs", {})
    folder.begin(plain(config))
    return pairs.run(config, folder.directory)


def test_stored_ids_are_the_map_of_the_noise_of_their_index(made):
    """The student's loss draws this noise again, and could not tell that it is another."""
    config, root = made
    stored = Store(root / "pairs").all()
    index = np.array([0, 13, 19, 20, 31, 47])  # all shards, their first and their last
    np.testing.assert_array_equal(stored["condition"][index], index % 10)
    teacher, tokenizer = (run_models.load(config, root, name) for name in ("teacher", "tokenizer"))
    eps = pair_generation.noise_of(3, index, 16, 4)

    @functools.partial(jax.jit, static_argnames=("guidance", "solver"))
    def mapped(teacher, codes, guidance=config.guidance, solver=config.flow):
        guided = Guided(teacher, guidance)
        return trajectory.map_noise(guided, index % 10, eps, codes, solver)

    ids = mapped(teacher, tokenizer.codebook)
    np.testing.assert_array_equal(stored["ids"][index], ids)
    # Guidance and solver show.
    assert (ids != mapped(teacher, tokenizer.codebook, guidance=Guidance())).any()
    assert (ids != mapped(teacher, tokenizer.codebook, solver=Solver())).any()


def test_the_student_learns_with_the_noise_of_the_pairs(made, tmp_path, monkeypatch):
    """Whatever the seed that it is trained with."""
    copied(made, tmp_path)
    config = dataclasses.replace(made[0], seed=5)
    config = dataclasses.replace(
        config, distill=dataclasses.replace(config.distill, perceptual=0.0)
    )
    seen = []

    class Enough(Exception):
        pass

    def train(**options):
        seen.append(options)
        raise Enough

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(Enough):
        distill.run(config, tmp_path / "distill")
    (options,) = seen
    assert options["loss"].keywords["noise_seed"] == 3 and options["seed"] == 5
    batch = options["source"].take(np.array([31, 0]))
    stored = Store(made[1] / "pairs").all()
    np.testing.assert_array_equal(batch["index"], [31, 0])
    np.testing.assert_array_equal(batch["condition"], [1, 0])
    np.testing.assert_array_equal(batch["ids"], stored["ids"][[31, 0]])
    # It starts as the teacher that made them.
    teacher = run_models.load(config, made[1], "teacher")
    student = options["init"](nnx.Rngs(0))
    assert_trees_equal(student.trunk, teacher.trunk)


def copied(made, to):
    shutil.copytree(made[1], to, dirs_exist_ok=True)
    return to / "pairs"


def test_repair_makes_just_the_wrong_shards_again_and_keeps_what_was_there(made, tmp_path):
    folder = copied(made, tmp_path / "run")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    untouched = (folder / "pairs-00000.array_record").stat().st_mtime_ns
    flip_byte(folder / "pairs-00001.array_record", 300)
    damaged = (folder / "pairs-00001.array_record").read_bytes()
    (folder / "pairs-00002.array_record").unlink()
    (folder / "pairs-00003.array_record").write_bytes(b"strange")
    done = pairs.repair(folder.parent)
    assert done.endswith("repaired: pairs-00001.array_record, pairs-00002.array_record, "
                         "pairs-00003.array_record; damaged files are kept beside as "
                         "NAME.damaged-1")
    assert "3 shards, all as the manifest has them" in pairs.verify(folder.parent)
    kept = {"pairs-00001.array_record.damaged-1": damaged,
            "pairs-00003.array_record.damaged-1": b"strange"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole | kept
    assert (folder / "pairs-00000.array_record").stat().st_mtime_ns == untouched
    assert pairs.repair(folder.parent).endswith("nothing to repair")


def test_a_shard_that_the_manifest_does_not_know_yet_is_made_again(made, tmp_path, monkeypatch):
    """A kill between the two renames: the shard is there, its digest is not."""

    def killed(path, value):
        if len(value.get("shards", ())) == 3:
            raise KeyboardInterrupt
        write_json(path, value)

    write_json = files.write_json
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_json", killed)
        make(made[0], tmp_path)
    with pytest.raises(UserError, match=r"pairs-00002\.array_record is not in the manifest"):
        pairs.verify(tmp_path)
    make(made[0], tmp_path)
    here, there = ({path.name: path.read_bytes() for path in (root / "pairs").iterdir()}
                   for root in (tmp_path, made[1]))
    assert here == there


def test_a_stage_that_ran_out_of_memory_goes_on_with_a_smaller_batch(made, tmp_path):
    """Also where an earlier version has recorded the batch among the settings."""
    config, stage = made[0], registry.STAGES["pairs"]
    running.folder(config, tmp_path, stage).begin(plain(config))
    pairs.run(config, tmp_path / "pairs")
    whole = (tmp_path / "pairs" / "pairs-00002.array_record").read_bytes()
    (tmp_path / "pairs" / "pairs-00002.array_record").unlink()
    settings = tmp_path / "pairs" / "settings.json"
    files.write_json(settings, files.read_json(settings, "") | {"pairs.batch": 8})
    path = tmp_path / "pairs" / "manifest.json"
    manifest = files.read_json_with_digest(path, "")
    manifest["settings"]["pairs.batch"] = 8
    files.write_json_with_digest(path, manifest)
    smaller = dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, batch=1))
    running.run(smaller, tmp_path, stage)
    assert (tmp_path / "pairs" / "pairs-00002.array_record").read_bytes() == whole
    fewer = dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, per_shard=4))
    with pytest.raises(UserError, match=r"pairs\.per_shard \(there 20, now 4\); use those"):
        running.run(fewer, tmp_path, stage)


def test_the_map_compiles_once(made, tmp_path):
    """Seven batches on all devices, the last of each shard filled in part."""
    before = pair_generation.map_batch._cache_size()
    section = dataclasses.replace(made[0].pairs, batch=1)
    config = dataclasses.replace(made[0], pairs=section, flow=flow.Solver(steps=5))
    assert make(config, tmp_path).startswith("48 pairs in 3 sh")
    assert pair_generation.map_batch._cache_size() == before + 1


def poisoned(config, root, table, row):
    """The config with a teacher of which a row of an embedding is not a number."""
    kind, sizes, arrays = model_folder.read(config.teacher.weights)
    arrays[table][row] = np.nan
    model_folder.write(root / "poisoned", kind, sizes, arrays, arrays.values())
    section = dataclasses.replace(config.teacher, weights=str(root / "poisoned"))
    return dataclasses.replace(config, teacher=section)


@pytest.mark.parametrize("table", ["trunk/condition/embed/embedding", "token_embed/embedding"])
def test_a_log_probability_that_is_not_finite_is_named(made, tmp_path, table):
    """Class 9 is first met at pair 9, a code is read for the token behind it."""
    row, pair, token = 9, 9, 0
    if table.startswith("token"):
        ids = Store(made[1] / "pairs").all()["ids"]
        row, place = ids[0, 7], list(ids[0]).index(ids[0, 7])
        pair, token = 0, place + 1
    message = (rf"pairs: a log-probability is not finite in batch "
               rf"{pair // (8 * jax.local_device_count())} of "
               rf"pairs-00000\.array_record, at pair {pair}, token {token}; ")
    with pytest.raises(UserError, match=message):
        make(poisoned(made[0], tmp_path, table, row), tmp_path)
    assert not list((tmp_path / "pairs").glob("*.array_record"))


def test_sigterm_ends_the_stage_and_keeps_whole_shards(made, tmp_path, monkeypatch):
    write = Store.write

    def interrupted(store, name, *rows):
        write(store, name, *rows)
        if name == "pairs-00001.array_record":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Store, "write", interrupted)
    preemption.watch()
    with pytest.raises(preemption.Preempted):
        make(made[0], tmp_path)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one ends the process
    done = make(made[0], tmp_path)
    assert done == "48 pairs in 3 shards, 1 of them made now"
    for path in (made[1] / "pairs").iterdir():
        assert (tmp_path / "pairs" / path.name).read_bytes() == path.read_bytes()


def test_a_store_that_does_not_say_how_it_was_made_cannot_be_repaired(made, tmp_path):
    folder = copied(made, tmp_path / "run")
    assert from_dict(workdir.read_config(folder)) == made[0]
    assert pairs.verify(folder.parent).endswith("3 shards, all as the manifest has them")
    (folder / "config.json").unlink()
    for command in (pairs.repair, pairs.verify):
        with pytest.raises(UserError, match=r"config\.json is missing; copy it from a store"):
            command(folder.parent)
    with pytest.raises(UserError, match=r"mend: unknown command; known are verify, repair"):
        pairs_command.main("mend", str(folder.parent))
    for command in (pairs.repair, pairs.verify):
        with pytest.raises(UserError, match=rf"{tmp_path}/nowhere: no store of pairs is there; "):
            command(tmp_path / "nowhere")


def test_noise_goes_by_its_index_alone():
    """Row i is the same in any batch, and no two rows or purposes share noise."""
    whole = pair_generation.noise_of(0, jnp.arange(6), 4, 3)
    some = jnp.array([5, 2])
    np.testing.assert_array_equal(pair_generation.noise_of(0, some, 4, 3), whole[some])
    jitted = jax.jit(pair_generation.noise_of, static_argnums=(0, 2, 3))(0, jnp.arange(6), 4, 3)
    np.testing.assert_array_equal(jitted, whole)
    other = keys.noise(keys.stream(0, "sample"), jnp.arange(6), 4, 3)
    values = np.concatenate([np.asarray(whole).ravel(), np.asarray(other).ravel(),
                             np.asarray(pair_generation.noise_of(1, jnp.arange(6), 4, 3)).ravel()])
    assert len(np.unique(values)) == len(values)


def test_noise_is_standard_normal():
    import scipy.stats

    values = np.asarray(pair_generation.noise_of(0, jnp.arange(2000), 16, 4)).ravel()
    assert scipy.stats.kstest(values, "norm").pvalue > 1e-3
