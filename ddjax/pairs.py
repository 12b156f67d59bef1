"""Pairs (noise, condition, ids) from the teacher's flow map, and the store they are kept in.

The noise of pair i is drawn from a counter-based key, never stored: a LlamaGen pair is 516 bytes
(584 in shards of 10,000) instead of 8.7 kB. Shard s holds pairs s * per_shard and on; what is in it
depends on the settings and s alone. A shard has its final name only when it is whole, and the
manifest its SHA-256; a restart writes what is missing.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from array_record.python import array_record_module
from flax import nnx

from ddjax import files, keys, parts, progress, trajectory, workdir
from ddjax.config import Config
from ddjax.errors import UserError
from ddjax.flow import Solver
from ddjax.guidance import Guidance, Guided
from ddjax.workdir import Stage


def noise_of(seed: int, index_B: jax.Array, length: int, code_dim: int) -> jax.Array:
    """The noise [B, L, C] of training pairs, by their index."""
    return keys.noise(keys.stream(seed, "pairs"), index_B, length, code_dim)


def labels_of(index_B: jax.Array, num_classes: int) -> jax.Array:
    """The classes [B] of training pairs: all in turn, so that each has its share."""
    return (index_B % num_classes).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("guidance", "solver"))
def map_batch(
    teacher: nnx.Module,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    *,
    guidance: Guidance,
    solver: Solver,
) -> jax.Array:
    """`trajectory.map_noise`, compiled."""
    return trajectory.map_noise(Guided(teacher, guidance), condition, eps_BLC, codes_VC, solver)


class Store:
    """The shards of one folder, and `manifest.json` that vouches for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._manifest = directory / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """What the store holds.

        Raises:
          UserError: there is none, or it is not readable.
        """
        try:
            return json.loads(self._manifest.read_text())
        except FileNotFoundError:
            raise UserError(f"{self._manifest} is missing; run the stage pairs") from None
        except ValueError:
            raise UserError(f"{self._manifest} is damaged: not readable as JSON") from None

    def create(self, about: dict[str, Any]) -> set[str]:
        """Begin or continue a store.

        Args:
          about: what the pairs were made with; must equal what is in the manifest already.

        Returns:
          names of the shards that are there; each was checked.

        Raises:
          UserError: another teacher or other settings, or a damaged shard.
        """
        if self._manifest.exists():
            there = self.manifest()
            other = [key for key, value in about.items() if there.get(key) != value]
            if other:
                raise UserError(
                    f"{self.directory} holds pairs of another {' and '.join(other)}; use another "
                    "--workdir"
                )
            present = {
                name: sha256 for name, sha256 in there["shards"].items()
                if (self.directory / name).exists()
            }
            self.verify(present)
            return set(present)
        self.directory.mkdir(parents=True, exist_ok=True)
        files.write_json(self._manifest, {**about, "shards": {}})
        return set()

    def verify(self, shards: dict[str, str]) -> None:
        """Compare the shards with their digests.

        Raises:
          UserError: names every shard that is missing or damaged.
        """
        problems = []
        for name, sha256 in shards.items():
            path = self.directory / name
            if not path.exists():
                problems.append(f"{path} is missing")
            elif _file_digest(path) != sha256:
                problems.append(f"{path} is damaged")
        if problems:
            raise UserError(
                f"{'; '.join(problems)}; remove what is damaged and "
                f"{self.directory / 'finished.json'}, and run the stage pairs again: it makes just "
                "the missing shards anew"
            )

    def write(self, name: str, condition_N: np.ndarray, ids_NL: np.ndarray) -> None:
        """Add a whole shard."""
        path = self.directory / name
        records = np.zeros(len(ids_NL), _record(ids_NL.shape[1]))
        records["condition"], records["ids"] = condition_N, ids_NL
        with files.atomic(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(
                str(temporary), "group_size:1,uncompressed"
            )
            for record in records:
                writer.write(record.tobytes())
            writer.close()
        manifest = self.manifest()
        manifest["shards"][name] = _file_digest(path)
        manifest["shards"] = dict(sorted(manifest["shards"].items()))
        files.write_json(self._manifest, manifest)

    def read(self) -> dict[str, np.ndarray]:
        """All pairs: {"index": int32 [N], "condition": int32 [N], "ids": uint16 [N, L]}.

        Raises:
          UserError: a shard is missing or damaged.
        """
        manifest = self.manifest()
        self.verify(manifest["shards"])
        source = grain.sources.ArrayRecordDataSource(
            [str(self.directory / name) for name in manifest["shards"]]
        )
        count = len(source)
        if count != manifest["count"]:
            raise UserError(f"{self.directory} holds {count} of {manifest['count']} pairs")
        content = b"".join(source.__getitems__(range(count)))
        records = np.frombuffer(content, _record(manifest["length"]))
        return {
            "index": np.arange(count, dtype=np.int32),
            "condition": records["condition"].copy(),
            "ids": records["ids"].copy(),
        }


def _record(length: int) -> np.dtype:
    return np.dtype([("condition", "<i4"), ("ids", "<u2", (length,))])


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(config: Config, stage: Stage) -> str:
    """Make the missing shards; returns one line about it."""
    root = stage.directory.parent
    teacher = parts.load(config, root, "teacher")
    codes_VC = parts.load(config, root, "tokenizer").codebook
    section = config.pairs
    store = Store(stage.directory)
    about = {
        "teacher": parts.digest(config, root, "teacher"),
        "tokenizer": parts.digest(config, root, "tokenizer"),
        "settings": workdir.settings(config, "pairs"),
        "count": section.count,
        "length": teacher.groups.length,
    }
    done = store.create(about)
    starts = range(0, section.count, section.per_shard)
    names = {start: f"pairs-{start // section.per_shard:05d}.array_record" for start in starts}
    missing = [start for start in starts if names[start] not in done]

    def shard(start: int) -> range:
        return range(start, min(start + section.per_shard, section.count))

    todo = sum(-(-len(shard(start)) // section.batch) for start in missing)
    bar = progress.bar(_batches(config, teacher, codes_VC, missing, shard), stage.name, todo)
    made: list[np.ndarray] = []
    for start, ids in bar:
        made.append(ids)
        rows = shard(start)
        if sum(map(len, made)) >= len(rows):
            labels = labels_of(np.arange(rows.start, rows.stop), config.data.num_classes)
            store.write(names[start], labels, np.concatenate(made)[: len(rows)])
            made = []
    return f"{section.count} pairs in {len(starts)} shards, {len(missing)} of them made now"


def _batches(
    config: Config, teacher: nnx.Module, codes_VC: jax.Array, starts: list[int], shard: Any
) -> Iterator[tuple[int, np.ndarray]]:
    """(start of the shard, ids) batch by batch; one is computed while the one before is read."""
    batch, pending = config.pairs.batch, None
    for start in starts:
        for first in range(start, shard(start).stop, batch):
            index_B = jnp.arange(first, first + batch, dtype=jnp.int32)
            eps = noise_of(config.seed, index_B, teacher.groups.length, codes_VC.shape[1])
            ids = map_batch(
                teacher, codes_VC, eps, labels_of(index_B, config.data.num_classes),
                guidance=config.guidance, solver=config.flow,
            )
            if pending is not None:
                yield pending[0], np.asarray(pending[1])
            pending = (start, ids)
    if pending is not None:
        yield pending[0], np.asarray(pending[1])
