"""Pair store: shards of (condition, ids), and a manifest with their digests.

A LlamaGen pair is 516 bytes (584 in shards of 10,000) instead of 8.7 kB, since its noise is drawn
from a counter-based key and never stored. A shard has its final name only when it is whole, and the
manifest its SHA-256. Nothing is overwritten: what is wrong is kept beside under another name.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.data.sources import Arrays, Source
from ddjax.runtime.errors import UserError
from ddjax.storage import files
from ddjax.storage.workdir import RETIRED

# Bytes of pairs that a student keeps in memory; reading them one by one would be a large part of a
# small student's step.
IN_MEMORY = 2**25

MISSING, UNKNOWN, DAMAGED = "is missing", "is not in the manifest", "is damaged"


class Store:
    """The shards of one folder, and `manifest.json`.

    While shards are made, each process keeps a part of the manifest of its own, with the digests of
    its shards: `manifest-part-0.json`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._manifest = directory / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """What the store holds, also by the parts of the manifest.

        Raises:
          UserError: there is none, or it is damaged.
        """
        whole = files.read_json_with_digest(
            self._manifest, f"move {self.directory} aside and run the stage pairs again",
            ("shards", "count", "per_shard", "length"),
        )
        if whole is None:
            raise UserError(f"{self._manifest} is missing; run the stage pairs")
        for path in self._parts():
            whole["shards"].update(_shards_of_part(path))
        return whole | {"shards": dict(sorted(whole["shards"].items()))}

    def _parts(self) -> list[Path]:
        return sorted(self.directory.glob("manifest-part-*.json"))

    def merge(self) -> None:
        """Write the parts of the manifest into it."""
        parts = self._parts()
        if parts:
            files.write_json_with_digest(self._manifest, self.manifest())
        for path in parts:
            path.unlink()

    def shards(self) -> dict[str, range]:
        """All shards of a complete store: the indices of the pairs by the name of the file."""
        manifest = self.manifest()
        count, size = manifest["count"], manifest["per_shard"]
        return {
            f"pairs-{start // size:05d}.array_record": range(start, min(start + size, count))
            for start in range(0, count, size)
        }

    def create(self, about: dict[str, Any]) -> None:
        """Begin a store, or check that the one that is there can be continued.

        Args:
          about: what the pairs are made with; "count", "per_shard" and "length" are among it.

        Raises:
          UserError: as `check`, or a damaged shard.
        """
        if self._manifest.exists():
            self.check(about)
            self.verify(ignore=(MISSING, UNKNOWN))
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        files.write_json_with_digest(self._manifest, {**about, "shards": {}})

    def check(self, about: dict[str, Any]) -> None:
        """Compare what pairs would be made with now to what these were made with.

        Raises:
          UserError: another teacher or other settings.
        """
        there, now = (_without(manifest, RETIRED) for manifest in (self.manifest(), about))
        other = [key for key, value in now.items() if there.get(key) != value]
        if other:
            raise UserError(
                f"{self.directory} holds pairs of another {' and '.join(other)}; use another "
                "--workdir"
            )

    def problems(self) -> dict[str, str]:
        """What is wrong with which file: MISSING, UNKNOWN or DAMAGED by its name."""
        known = self.manifest()["shards"]
        there = {path.name: path for path in self.directory.glob("*.array_record")}
        found = dict.fromkeys(self.shards().keys() - there.keys(), MISSING)
        for name, path in there.items():
            if name not in known:
                found[name] = UNKNOWN
            elif files.digest(path) != known[name]:
                found[name] = DAMAGED
        return dict(sorted(found.items()))

    def verify(self, ignore: tuple[str, ...] = ()) -> None:
        """Refuse a store that is not whole, but for problems to be ignored.

        Raises:
          UserError: names every shard that is missing, damaged or not in the manifest.
        """
        problems = [
            f"{self.directory / name} {problem}"
            for name, problem in self.problems().items() if problem not in ignore
        ]
        if problems:
            raise UserError(
                f"{'; '.join(problems)}; make just these again with: "
                f"python -m ddjax.pairs repair {self.directory.parent}"
            )

    def write(self, name: str, condition_N: np.ndarray, ids_NL: np.ndarray) -> None:
        """Add a complete shard, or restore one that the manifest knows; `merge` ends the adding.

        Other content under its name is kept beside, as NAME.damaged-1.

        Raises:
          UserError: it is not the very shard that the manifest knows; nothing is changed.
        """
        path = self.directory / name
        known = self.manifest()["shards"].get(name)
        with files.atomic(path) as temporary:
            _write_records(temporary, condition_N, ids_NL)
            digest = files.digest(temporary)
            if known not in (None, digest):
                raise UserError(
                    f"{path}: this device makes other pairs than those in the manifest (SHA-256 "
                    f"{digest[:12]}..., not {known[:12]}...), so nothing was changed; repair it on "
                    "the kind of device that it was made on, or make all pairs again in another "
                    "workdir"
                )
            if path.exists() and files.digest(path) != digest:
                files.quarantine(path)
        part = self.directory / f"manifest-part-{jax.process_index()}.json"
        shards = _shards_of_part(part) | {name: digest}
        files.write_json_with_digest(part, {"shards": shards})

    def copy_from(self, larger: "Store") -> None:
        """Add the shards that are missing from a store of more of the same pairs.

        Raises:
          UserError: that store is damaged, or holds other pairs, or fewer.
        """
        ours, theirs = _kind(self.manifest()), _kind(larger.manifest())
        other = [key for key in ours if ours[key] != theirs.get(key)]
        source = larger.source()
        if other or self.manifest()["count"] > len(source):
            what = f"pairs of another {' and '.join(other)}" if other else f"{len(source)} pairs"
            raise UserError(f"{larger.directory} has {what}: none can be copied from there")
        for name, problem in self.problems().items():
            if problem in (MISSING, UNKNOWN) and name in self.shards():
                pairs = source.take(np.asarray(self.shards()[name]))
                self.write(name, pairs["condition"], pairs["ids"])
        self.merge()

    def source(self) -> Source:
        """All pairs, to be read by their numbers.

        Raises:
          UserError: a shard is missing or damaged.
        """
        pairs = self._open()
        return Arrays(pairs.all()) if pairs.nbytes <= IN_MEMORY else pairs

    def all(self) -> dict[str, np.ndarray]:
        """All pairs in order: "index" [N], "condition" [N], "ids" [N, L]; raises as `source`."""
        return self._open().all()

    def _open(self) -> "PairSource":
        self.verify(ignore=(UNKNOWN,))
        paths = [str(self.directory / name) for name in self.shards()]
        return PairSource(paths, self.manifest()["length"])


class PairSource:
    """Pairs that stay on disk; a `ddjax.data.sources.Source`."""

    def __init__(self, paths: list[str], length: int) -> None:
        import grain  # only training reads pairs; a bare GPU image has no Grain

        self._records = grain.sources.ArrayRecordDataSource(paths)
        self._type = record_type(length)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def nbytes(self) -> int:
        """Of all pairs in memory."""
        return len(self) * self._type.itemsize

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{"index": int32 [N], "condition": int32 [N], "ids": uint16 [N, L]} of these pairs."""
        content = b"".join(self._records.__getitems__(rows))
        records = np.frombuffer(content, self._type)
        return {
            "index": rows.astype(np.int32),
            "condition": records["condition"].copy(),
            "ids": records["ids"].copy(),
        }

    def all(self) -> dict[str, np.ndarray]:
        """As `take`, of all pairs in order, [N, ...] each."""
        return self.take(np.arange(len(self)))


def _kind(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of its pairs, but for how many there are."""
    kind = _without(manifest, ("pairs.count", *RETIRED))
    return {key: value for key, value in kind.items() if key not in ("count", "shards")}


def _without(manifest: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The manifest but for these keys of its settings."""
    settings = {key: value for key, value in manifest["settings"].items() if key not in keys}
    return manifest | {"settings": settings}


def _shards_of_part(path: Path) -> dict[str, str]:
    """The digests of shards in a part of the manifest; none if there is no file."""
    advice = f"move {path} aside; the shards that it names are made again"
    part = files.read_json_with_digest(path, advice, ("shards",))
    return part["shards"] if part else {}


def _write_records(path: Path, condition_N: np.ndarray, ids_NL: np.ndarray) -> None:
    records = np.zeros(len(ids_NL), record_type(ids_NL.shape[1]))
    records["condition"], records["ids"] = condition_N, ids_NL
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record.tobytes())
    writer.close()


def record_type(length: int) -> np.dtype:
    """A pair of `length` tokens as it is stored."""
    return np.dtype([("condition", "<i4"), ("ids", "<u2", (length,))])
