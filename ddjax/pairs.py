"""The stage `pairs`, and what looks after its store.

    python -m ddjax.pairs verify runs/digits
    python -m ddjax.pairs repair runs/digits

`verify` names every shard that is missing, damaged or not in the manifest; `repair` makes just
those anew, bit-equal to what they were, and keeps what was under their names.
"""

from pathlib import Path
from typing import Any

import jax

from ddjax import cli, config_file, files, hosts, pair_generation, parts, sharding, workdir
from ddjax.config import Config
from ddjax.errors import UserError
from ddjax.pair_store import Store
from ddjax.workdir import Stage


def about(config: Config, root: Path) -> dict[str, Any]:
    """What decides the content of a store, for its manifest."""
    return {
        "teacher": parts.digest(config, root, "teacher"),
        "tokenizer": parts.digest(config, root, "tokenizer"),
        "settings": workdir.settings(config, "pairs"),
        "count": config.pairs.count,
        "per_shard": config.pairs.per_shard,
        "length": config.groups.length,
    }


def run(config: Config, stage: Stage) -> str:
    """Make the missing shards; returns one line about it."""
    root, store = stage.directory.parent, Store(stage.directory)
    if hosts.is_first():
        store.create(about(config, root), config_file.plain(config))
    hosts.wait("store of pairs begun")
    made = _make_wrong_shards(config, root, store)
    count, shards = config.pairs.count, len(store.shards())
    return f"{count} pairs in {shards} shards, {len(made)} of them made now"


def verify(root: Path) -> str:
    """Check the store of a workdir; returns one line about it.

    Raises:
      UserError: names every shard that is missing, damaged or not in the manifest, or the file that
        says how they were made.
    """
    store = Store(root / "pairs")
    store.config()
    store.verify()
    return f"{store.directory}: {len(store.shards())} shards, all as the manifest has them"


def repair(root: Path) -> str:
    """Make the shards anew that `verify` names; returns one line about it.

    Raises:
      UserError: another teacher than the one the pairs were made with, or a device that computes
        other pairs.
    """
    store = Store(root / "pairs")
    config = config_file.from_dict(store.config())
    store.check(about(config, root))
    problems = store.problems()
    if not problems:
        return f"{store.directory}: nothing to repair"
    made = _make_wrong_shards(config, root, store)
    for name in problems.keys() - set(made):  # no pairs of this store belong there
        files.keep_aside(store.directory / name)
    return f"{store.directory}: put right: {', '.join(problems)}; what was there is kept beside"


def _make_wrong_shards(config: Config, root: Path, store: Store) -> list[str]:
    """Each process makes its share with its own devices; returns the names of all."""
    shards = store.shards()
    wrong = [name for name in store.problems() if name in shards]
    hosts.wait("shards looked through")
    mine = {name: shards[name] for name in hosts.share(wrong)}
    with jax.set_mesh(sharding.this_process()):
        for name, condition_N, ids_NL in pair_generation.generate(config, root, mine):
            store.write(name, condition_N, ids_NL)
    hosts.wait("shards written")
    if hosts.is_first():
        store.merge()
    hosts.wait("manifest written")
    return wrong


def main(command: str, folder: str) -> None:
    """`verify` or `repair` the pairs of a workdir."""
    commands = {"verify": verify, "repair": repair}
    if command not in commands:
        raise UserError(f"{command}: unknown command; known are {', '.join(commands)}")
    print(commands[command](Path(folder)))


if __name__ == "__main__":
    cli.run(main, "COMMAND", "WORKDIR")
