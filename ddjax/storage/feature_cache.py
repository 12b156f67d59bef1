"""Feature cache: features of captions on disk, in bfloat16, of their tokens alone.

Record i of shard s has the tokens of caption s * PER_SHARD + i, [tokens, E], without padding. A
shard has its final name only when it is whole; ArrayRecord keeps a checksum of each record and does
not read what was damaged. `features.json` says of what the features are.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data.conditions import CaptionTexts, Conditions
from ddjax.runtime.errors import UserError
from ddjax.storage import files

# Captions in a file: 0.8 GB where each has 20 tokens of width 2,048.
PER_SHARD = 10_000

_TYPE = np.dtype(jnp.bfloat16)


class FeatureCache:
    """The shards of one folder, and what they are of.

    Args:
      directory: of the cache.
      count: how many captions there are.
      width: E of the features.
    """

    def __init__(self, directory: Path, count: int, width: int) -> None:
        self.directory, self._count, self._width = directory, count, width
        self._records: Any = None

    def begin(self, about: dict[str, Any]) -> None:
        """Begin a cache, or check that the one that is there is of the same features.

        Args:
          about: keys and values of all that decides them.

        Raises:
          UserError: they are of others; names the keys. Or it is no folder.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"config.text.cache: {self.directory} is a file; name a folder")
        path = self.directory / "features.json"
        advice = f"move {self.directory} aside; the features are made again"
        there = files.read_json_with_digest(path, advice)
        if there is None:
            if any(self.directory.glob("*.array_record")):
                raise UserError(f"{path} is missing, so that nothing says of what it is; {advice}")
            files.write_json_with_digest(path, about)
            return
        other = sorted(key for key in about.keys() | there.keys()
                       if about.get(key) != there.get(key))
        if other:
            raise UserError(
                f"config.text.cache: {self.directory} holds features of other settings: "
                f"{', '.join(other)}; give another folder"
            )

    def shards(self, read: int) -> dict[str, range]:
        """The shards that have the first `read` captions: their numbers by the file's name.

        The last is filled up with further captions, so that a shard is the same however many are
        read.
        """
        return {
            f"features-{start // PER_SHARD:05d}.array_record":
            range(start, min(start + PER_SHARD, self._count))
            for start in range(0, min(read, self._count), PER_SHARD)
        }

    def missing(self, read: int) -> dict[str, range]:
        """Those of `shards` that are not there."""
        return {name: numbers for name, numbers in self.shards(read).items()
                if not (self.directory / name).exists()}

    def write(self, name: str, features: Iterable[np.ndarray]) -> None:
        """Add a shard.

        Args:
          name: of `shards`.
          features: [tokens, E] of each of its captions.
        """
        from array_record.python import array_record_module

        with files.atomic(self.directory / name) as temporary:
            writer = array_record_module.ArrayRecordWriter(
                str(temporary), "group_size:1,uncompressed"
            )
            for feature_TE in features:
                writer.write(np.ascontiguousarray(feature_TE, _TYPE).tobytes())
            writer.close()

    def open(self, read: int) -> None:
        """Ready the shards of the first `read` captions for `take`.

        Raises:
          UserError: one is damaged, or has not as many captions as it must.
        """
        import grain  # only training reads features; a bare GPU image has no Grain

        shards = self.shards(read)
        for name, numbers in shards.items():
            path = self.directory / name
            try:
                found = len(grain.sources.ArrayRecordDataSource([str(path)]))
            except RuntimeError as error:
                raise _damaged(path, error) from None
            if found != len(numbers):
                raise _damaged(path, f"{found} captions, must be {len(numbers)}")
        paths = [str(self.directory / name) for name in shards]
        self._records = grain.sources.ArrayRecordDataSource(paths)

    def take(self, number_B: Sequence[int], tokens: int) -> dict[str, np.ndarray]:
        """Features [B, T, E] bfloat16 and mask [B, T] bool, padded on the left.

        Args:
          number_B: of the captions.
          tokens: T.

        Raises:
          UserError: a shard is damaged.
        """
        features_BTE = np.zeros((len(number_B), tokens, self._width), _TYPE)
        mask_BT = np.zeros((len(number_B), tokens), bool)
        for row, number in enumerate(number_B):
            try:
                record = self._records.__getitems__([int(number)])[0]
                feature_TE = np.frombuffer(record, _TYPE).reshape(-1, self._width)
            except (RuntimeError, ValueError) as error:
                shard = f"features-{number // PER_SHARD:05d}.array_record"
                raise _damaged(self.directory / shard, error) from None
            features_BTE[row, tokens - len(feature_TE) :] = feature_TE
            mask_BT[row, tokens - len(feature_TE) :] = True
        return {"features": features_BTE, "mask": mask_BT}


def _damaged(path: Path, why: Any) -> UserError:
    return UserError(
        f"{path} is damaged ({str(why).partition(';')[0]}); move it aside, and it is made again"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class CachedCaptions(Conditions):
    """Captions as texts, whose features are read from a cache.

    Attributes:
      captions: the texts.
      cache: their features, opened.
    """

    captions: CaptionTexts
    cache: FeatureCache
    key = "captions"
    buckets = 1

    @property
    def count(self) -> int:
        """How many captions there are."""
        return self.captions.count

    def take(self, number_B: np.ndarray) -> dict[str, np.ndarray]:
        """Features [B, T, E] and mask [B, T], padded on the left."""
        return self.cache.take(number_B, self.captions.tokens)

    def encode(self, condition: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The same in float32, as an encoder gives features."""
        return condition | {"features": condition["features"].astype(jnp.float32)}

    def shapes(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        """As those of the texts."""
        return self.captions.shapes(batch)

    def of_prompts(self, prompts: Sequence[str]) -> Conditions:
        """These texts, which are encoded."""
        return self.captions.of_prompts(prompts)

    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """One for all, [B]."""
        return self.captions.bucket(number_B)

    def title(self, number: int) -> str:
        """The caption."""
        return self.captions.title(number)
