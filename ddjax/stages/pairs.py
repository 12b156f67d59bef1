"""Stage `pairs`: make the store of pairs; verify and repair it."""

from pathlib import Path
from typing import Any

import jax

from ddjax.config import reading
from ddjax.config.schema import Config
from ddjax.data.conditions import Conditions
from ddjax.runtime import hosts, sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features, pair_generation, running
from ddjax.stages.registry import STAGES
from ddjax.storage import files, run_models, workdir
from ddjax.storage.pair_store import Store


def about(config: Config, root: Path) -> dict[str, Any]:
    """What decides the content of a store, for its manifest."""
    return {
        "teacher": run_models.digest(config, root, "teacher"),
        "tokenizer": run_models.digest(config, root, "tokenizer"),
        "settings": running.settings(config, STAGES["pairs"]),
        "count": config.pairs.count,
        "per_shard": config.pairs.per_shard,
        "length": config.groups.length,
    }


def run(config: Config, directory: Path) -> str:
    """Make the missing shards; returns one line about it."""
    root, store = directory.parent, Store(directory)
    if hosts.is_first():
        store.create(about(config, root))
    hosts.barrier("store of pairs begun")
    conditions = caption_features.conditions(config)
    made = _make_wrong_shards(config, root, conditions, store)
    count, shards = config.pairs.count, len(store.shards())
    return f"{count} pairs in {shards} shards, {len(made)} of them made now{conditions.remark()}"


def take_from(config: Config, root: Path, larger: Path) -> None:
    """Begin the store of a workdir with the first pairs of a larger one; the stage makes the rest.

    They are the very pairs that the stage would make, since a pair depends on its index alone.

    Args:
      config: of the run.
      root: its workdir.
      larger: the workdir with the larger store.

    Raises:
      UserError: that store is damaged, or was made by other settings.
    """
    folder, store = running.folder(config, root, STAGES["pairs"]), Store(root / "pairs")
    if folder.finished:
        return
    folder.begin(reading.plain(config))
    if hosts.is_first():
        store.create(about(config, root))
        store.copy_from(Store(larger / "pairs"))
    hosts.barrier("pairs copied")


def verify(root: Path) -> str:
    """Check the store of a workdir; returns one line about it.

    Raises:
      UserError: names every shard that is missing, damaged or not in the manifest, or the file that
        says how they were made.
    """
    store = Store(root / "pairs")
    _config(store)
    store.verify()
    return f"{store.directory}: {len(store.shards())} shards, all as the manifest has them"


def repair(root: Path) -> str:
    """Make the shards again that `verify` names; returns one line about it.

    Raises:
      UserError: another teacher than the one the pairs were made with, or a device that computes
        other pairs.
    """
    store = Store(root / "pairs")
    config = reading.from_dict(_config(store))
    store.check(about(config, root))
    problems = store.problems()
    if not problems:
        return f"{store.directory}: nothing to repair"
    made = _make_wrong_shards(config, root, caption_features.conditions(config), store)
    for name in problems.keys() - set(made):  # no pairs of this store belong there
        files.quarantine(store.directory / name)
    return (
        f"{store.directory}: repaired: {', '.join(problems)}; damaged files are kept beside as "
        "NAME.damaged-1"
    )


def _config(store: Store) -> dict[str, Any]:
    """The config that the pairs were made with."""
    if not store.directory.is_dir():
        raise UserError(
            f"{store.directory.parent}: no store of pairs is there; give the workdir of a run "
            "whose stage pairs has begun"
        )
    found = workdir.read_config(store.directory)
    if found is None:
        raise UserError(
            f"{store.directory / 'config.json'} is missing; copy it from a store that was made "
            "with the same config"
        )
    return found


def _make_wrong_shards(
    config: Config, root: Path, conditions: Conditions, store: Store
) -> list[str]:
    """Each process makes its share with its own devices; returns the names of all."""
    shards = store.shards()
    wrong = [name for name in store.problems() if name in shards]
    hosts.barrier("shards looked through")
    mine = {name: shards[name] for name in hosts.share(wrong)}
    with jax.set_mesh(sharding.this_process()):
        for name, condition_N, ids_NL in pair_generation.generate(
            config, root, conditions, mine
        ):
            store.write(name, condition_N, ids_NL)
    hosts.barrier("shards written")
    if hosts.is_first():
        store.merge()
    hosts.barrier("manifest written")
    return wrong
