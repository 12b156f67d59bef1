"""Conditions: what images are made from, classes or captions, each by its number.

All that is particular to a kind of condition is said here: how many there are, which one image or
pair i has, what a model reads, which marginals it shares, what is written under a picture, what a
user may ask for. Elsewhere a condition is a number, or a pytree with a leading axis B. The null
condition is the teacher's: of captions it is learned.
"""

from __future__ import annotations

import abc
import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.config.schema import Config
from ddjax.data.sources import Source
from ddjax.models.condition_embed import left_padded
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ddjax.config.schema import SampleSection


class Conditions(abc.ABC):
    """The conditions of a run, numbered from 0.

    Attributes:
      count: how many there are.
      buckets: how many marginals of tokens are told apart, by `bucket`.
      key: what a user asks for them by, under `sample`.
    """

    count: int
    buckets: int
    key: str

    def number(self, index: np.ndarray) -> np.ndarray:
        """The condition [...] int32 of the images or pairs of these indices: all in turn."""
        return (np.asarray(index) % self.count).astype(np.int32)

    @abc.abstractmethod
    def take(self, number_B: np.ndarray) -> Any:
        """What models read: a pytree of arrays with leading axis B."""

    @abc.abstractmethod
    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """Which marginals these conditions share, int32 [B]."""

    @abc.abstractmethod
    def title(self, number: int) -> str:
        """What to write under a picture."""

    def asked(self, section: SampleSection) -> np.ndarray:
        """Numbers [N] of the conditions that `sample` asks for: those named, or `count` in turn.

        Raises:
          UserError: conditions of another kind, or numbers that there are not.
        """
        for other in {"labels", "captions"} - {self.key}:
            if getattr(section, other):
                raise UserError(
                    f"config.sample.{other}: got {_listed(getattr(section, other))}, but this "
                    f"teacher has no such condition; use config.sample.{self.key}"
                )
        asked = getattr(section, self.key)
        return self.checked(asked, f"config.sample.{self.key}") if asked else self.number(
            np.arange(section.count)
        )

    def checked(self, numbers: Sequence[int], where: str) -> np.ndarray:
        """These numbers as int32 [N].

        Raises:
          UserError: one is out of range; `where` says where it was given.
        """
        for number in numbers:
            if not 0 <= number < self.count:
                raise UserError(f"{where}: got {number}, must be in 0..{self.count - 1}")
        return np.asarray(numbers, np.int32)


@dataclasses.dataclass(frozen=True)
class Classes(Conditions):
    """Class labels; a model reads them as int32 [B]."""

    count: int
    key = "labels"

    @property
    def buckets(self) -> int:
        """One for each class."""
        return self.count

    def take(self, number_B: np.ndarray) -> np.ndarray:
        """The labels themselves, [B]."""
        return np.asarray(number_B, np.int32)

    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """The class, [B]."""
        return np.asarray(number_B, np.int32)

    def title(self, number: int) -> str:
        """The number of the class."""
        return str(number)


@dataclasses.dataclass(frozen=True, eq=False)
class Captions(Conditions):
    """Captions by the features of their tokens, as a text encoder gives them.

    A model reads {"features": [B, T, E], "mask": [B, T]}, padded on the left: the caption stands
    next to the image.

    Attributes:
      features_NTE: padded on the left, zero in the padding.
      mask_NT: true for the tokens of the caption.
      texts: the captions, or none.
    """

    features_NTE: np.ndarray
    mask_NT: np.ndarray
    texts: tuple[str, ...] = ()
    key = "captions"
    buckets = 1

    @property
    def count(self) -> int:
        """How many captions there are."""
        return len(self.features_NTE)

    def take(self, number_B: np.ndarray) -> dict[str, np.ndarray]:
        """Features [B, T, E] and mask [B, T]."""
        return {"features": self.features_NTE[number_B], "mask": self.mask_NT[number_B]}

    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """One for all, [B]."""
        return np.zeros(len(number_B), np.int32)

    def title(self, number: int) -> str:
        """The caption, or its number."""
        return self.texts[number] if self.texts else str(number)


def load(config: Config) -> Conditions:
    """The conditions of a run.

    Raises:
      UserError: as `read_captions`.
    """
    if not config.data.captions:
        return Classes(config.data.num_classes)
    model = config.teacher.model
    return read_captions(Path(config.data.captions), model.caption_tokens, model.caption_dim)


def read_captions(path: Path, tokens: int, width: int) -> Captions:
    """Captions from an .npz file: "features" [N, T, E], "mask" [N, T], and "texts" [N] or none.

    Features are as a text encoder gives them: the caption's tokens first, then padding.

    Args:
      path: of the file.
      tokens: T, which the teacher reads.
      width: E, likewise.

    Raises:
      UserError: it is missing, damaged, or not what the teacher reads.
    """
    where = f"config.data.captions: {path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{where} is missing; give an .npz file of features") from None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{where} cannot be read as .npz ({error})") from None
    if not {"features", "mask"} <= arrays.keys():
        raise UserError(f"{where} has the arrays {_listed(arrays)}; needs features and mask")
    features, mask = arrays["features"], arrays["mask"].astype(bool)
    wanted = f"[N, {tokens}, {width}], as the teacher's caption_tokens and caption_dim say"
    if features.ndim != 3 or features.shape[1:] != (tokens, width) or not len(features):
        raise UserError(f"{where}: features are {list(features.shape)}, must be {wanted}")
    if mask.shape != features.shape[:2]:
        raise UserError(f"{where}: mask is {list(mask.shape)}, must be {list(features.shape[:2])}")
    if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
        raise UserError(f"{where}: mask must be true for the first tokens of each row, at least 1")
    if not np.isfinite(features[mask]).all():
        raise UserError(f"{where}: features are not all finite")
    texts = tuple(str(text) for text in arrays.get("texts", ()))
    if texts and len(texts) != len(features):
        raise UserError(f"{where}: {len(texts)} texts for {len(features)} features")
    padded = jax.device_get(left_padded(features.astype(np.float32), mask))
    return Captions(padded["features"], padded["mask"], texts)


def replaced(condition: Any, null: Any, drop_B: jax.Array) -> Any:
    """A condition, with the null condition for the images of `drop_B`; bool [B]."""

    def one(given: jax.Array, nothing: jax.Array) -> jax.Array:
        return jnp.where(drop_B.reshape(-1, *(1,) * (given.ndim - 1)), nothing, given)

    return jax.tree.map(one, condition, null)


def shapes(conditions: Conditions, batch: int) -> Any:
    """What models read of a batch, as shapes and types."""
    one = conditions.take(np.zeros(1, np.int32))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), one)


class Conditioned:
    """A source whose examples have "condition" as a number, with what models read in its place."""

    def __init__(self, source: Source, conditions: Conditions) -> None:
        self._source, self._conditions = source, conditions

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """See `ddjax.data.sources.Source`."""
        examples = self._source.take(rows)
        return {**examples, "condition": self._conditions.take(examples["condition"])}


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
