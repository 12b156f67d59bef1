"""Conditions: what images are made from, classes or captions, each by its number.

All that is particular to a kind of condition is said here: how many there are, which one image or
pair i has, what a model reads, which marginals it shares, what is written under a picture, what a
user may ask for. Elsewhere a condition is a number, or a pytree with a leading axis B. The null
condition is the teacher's: of captions it is learned.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.config.schema import SHAPES, Config, DataSection, SampleSection, TextSection
from ddjax.data import captions, cleaning, npz, shapes
from ddjax.data.caption_files import whole
from ddjax.data.captions import Captions
from ddjax.data.pieces import Pieces, Tokens
from ddjax.data.sources import Source
from ddjax.method.protocols import TextEncoder
from ddjax.models.condition_embed import left_padded
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError


class Conditions(abc.ABC):
    """The conditions of a run, numbered from 0.

    Attributes:
      count: how many there are.
      buckets: how many marginals of tokens are distinguished, by `bucket`.
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
        """What goes to the devices: a pytree of arrays with leading axis B."""

    def encode(self, condition: Any) -> Any:
        """What models read, on the devices, from what `take` gave: that itself, or its features."""
        return condition

    def remark(self) -> str:
        """What a user should know of the conditions taken so far, or ""."""
        return ""

    def shapes(self, batch: int) -> Any:
        """What models read of a batch, as shapes and types."""
        one = self.take(np.zeros(1, np.int32))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), one)

    def of_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Conditions of a user's own, numbered in this order.

        Raises:
          UserError: these are not made of texts.
        """
        raise UserError(
            f"prompts: got {len(prompts)}, but there is no text encoder here; give {self.key}"
        )

    @abc.abstractmethod
    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """Which marginals these conditions share, int32 [B]."""

    @abc.abstractmethod
    def title(self, number: int) -> str:
        """What to write under a picture."""

    def asked(self, section: SampleSection) -> tuple[Conditions, np.ndarray]:
        """What `sample` asks for: prompts, or conditions that are named, or `count` in turn.

        Returns:
          The conditions, these or a user's own, and numbers [N] of them.

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
        if section.prompts and asked:
            raise UserError(
                f"config.sample.prompts: got some beside config.sample.{self.key}; give one of them"
            )
        if section.prompts:
            prompts = split_prompts(section.prompts)
            return self.of_prompts(prompts), np.arange(len(prompts), dtype=np.int32)
        return self, self.checked(asked, f"config.sample.{self.key}") if asked else self.number(
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
class CaptionFeatures(Conditions):
    """Captions by the features of their tokens, as a text encoder gives them.

    A model reads {"features": [B, T, E], "mask": [B, T]}, padded on the left: the caption stands
    next to the image.

    Attributes:
      features_NTE: of the tokens, then padding.
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
        mask_BT = self.mask_NT[number_B]
        return jax.tree.map(np.asarray, left_padded(self.features_NTE[number_B], mask_BT))

    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """One for all, [B]."""
        return np.zeros(len(number_B), np.int32)

    def title(self, number: int) -> str:
        """The caption, or its number."""
        return self.texts[number] if self.texts else str(number)


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionTexts(Conditions):
    """Captions as texts, whose features are computed on the devices.

    Attributes:
      texts: the captions.
      clean: what is done to each before it is read.
      pieces: makes tokens of texts, `ddjax.data.pieces.Pieces`.
      encoder: loads the text encoder, when it is first needed.
      tokens: T, which the teacher reads.
      width: E, likewise.
      cut: numbers of the captions taken so far that are longer than T.
    """

    texts: Captions
    clean: Callable[[str], str]
    pieces: Callable[[Sequence[str], int], Tokens]
    encoder: Callable[[], TextEncoder]
    tokens: int
    width: int
    cut: set[int] = dataclasses.field(default_factory=set)
    key = "captions"
    buckets = 1

    @property
    def count(self) -> int:
        """How many captions there are."""
        return len(self.texts)

    def take(self, number_B: np.ndarray) -> dict[str, np.ndarray]:
        """Token ids [B, T] and mask [B, T]."""
        cleaned = [self.clean(self.texts[int(number)]) for number in number_B]
        found = self.pieces(cleaned, self.tokens)
        self.cut.update(np.asarray(number_B)[found.cut_N].tolist())
        return {"ids": found.ids_NT, "mask": found.mask_NT}

    def encode(self, condition: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Features [B, T, E] and mask [B, T], padded on the left."""
        return _encode(self.encoder(), condition)

    def shapes(self, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Features [B, T, E] and mask [B, T], without reading the encoder."""
        return feature_shapes(batch, self.tokens, self.width)

    def of_prompts(self, prompts: Sequence[str]) -> CaptionTexts:
        """These texts, in place of the captions.

        Raises:
          UserError: one text in place of a list, or texts of white space alone.
        """
        if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
            raise UserError(f"prompts: got {prompts!r}, must be a list of texts")
        blank = [i for i, text in enumerate(prompts) if not text.strip()]
        if blank:
            raise UserError(f"prompts: number {blank[0]} is blank; leave it out")
        return dataclasses.replace(self, texts=tuple(map(whole, prompts)), cut=set())

    def remark(self) -> str:
        """How many captions were cut."""
        return f"; {len(self.cut)} captions were cut to {self.tokens} tokens" if self.cut else ""

    def bucket(self, number_B: np.ndarray) -> np.ndarray:
        """One for all, [B]."""
        return np.zeros(len(number_B), np.int32)

    def title(self, number: int) -> str:
        """The caption."""
        return self.texts[int(number)]


def feature_shapes(batch: int, tokens: int, width: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What models read of captions [B, T] with features of width E, as shapes and types."""
    return {
        "features": jax.ShapeDtypeStruct((batch, tokens, width), jnp.float32),
        "mask": jax.ShapeDtypeStruct((batch, tokens), bool),
    }


@jax.jit
def _encode(encoder: TextEncoder, condition: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def share(encoder: TextEncoder, ids_BT: jax.Array, mask_BT: jax.Array) -> dict[str, jax.Array]:
        return left_padded(encoder.embed_text(ids_BT, mask_BT), mask_BT)

    return sharding.per_device(share, replicated=1)(encoder, condition["ids"], condition["mask"])


def load(config: Config, encoder: Callable[[], TextEncoder]) -> Conditions:
    """The conditions of a run.

    Args:
      config: of the run.
      encoder: loads its text encoder, where it has one.

    Raises:
      UserError: as `read_features`, `ddjax.data.captions.load`, `ddjax.data.cleaning.cleaner` and
        `Pieces`.
    """
    data, model = config.data, config.teacher.model
    if not config.has_captions:
        return Classes(data.num_classes)
    if config.text is None:
        return read_features(Path(data.captions), model.caption_tokens, model.caption_dim)
    texts = _texts(data)
    clean = cleaning.cleaner(config.text.clean)
    if config.text.pieces:
        pieces = Pieces.read(Path(config.text.pieces), config.text.model.vocab_size)
    else:
        pieces = _made(texts, clean, config.text.model.vocab_size)
    return CaptionTexts(
        texts,
        clean,
        pieces,
        encoder,
        model.caption_tokens,
        model.caption_dim,
    )


def vocabulary_digest(data: DataSection, text: TextSection) -> str:
    """What tells the vocabulary made from captions from another; raises as `load`."""
    made = _made(_texts(data), cleaning.cleaner(text.clean), text.model.vocab_size)
    return made.digest()


def _texts(data: DataSection) -> Captions:
    return shapes.captions() if data.name == SHAPES else captions.load(data)


def _made(texts: Captions, clean: Callable[[str], str], vocab_size: int) -> Pieces:
    return Pieces.trained((clean(texts[i]) for i in range(len(texts))), vocab_size)


def read_features(path: Path, tokens: int, width: int) -> CaptionFeatures:
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
    arrays = npz.read(path, where, "give an .npz file of features")
    if not {"features", "mask"} <= arrays.keys():
        raise UserError(f"{where} has the arrays {_listed(arrays)}; needs features and mask")
    features = arrays["features"]
    for name, kinds in (("features", "f"), ("mask", "bif")):
        if arrays[name].dtype.kind not in kinds:
            raise UserError(f"{where}: {name} is of {arrays[name].dtype}, must be numbers")
    mask = arrays["mask"].astype(bool)
    wanted = f"[N, {tokens}, {width}], as the teacher's caption_tokens and caption_dim say"
    if features.ndim != 3 or features.shape[1:] != (tokens, width) or not len(features):
        raise UserError(f"{where}: features are {list(features.shape)}, must be {wanted}")
    if mask.shape != features.shape[:2]:
        raise UserError(f"{where}: mask is {list(mask.shape)}, must be {list(features.shape[:2])}")
    if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
        raise UserError(f"{where}: mask must be true for the first tokens of each row, at least 1")
    if not np.isfinite(features[mask]).all():
        raise UserError(f"{where}: features are not all finite")
    texts = tuple(str(text) for text in np.atleast_1d(arrays.get("texts", ())))
    if texts and len(texts) != len(features):
        raise UserError(f"{where}: {len(texts)} texts for {len(features)} features")
    return CaptionFeatures(features.astype(np.float32), mask, texts)


def replaced(condition: Any, null: Any, drop_B: jax.Array) -> Any:
    """A condition, with the null condition for the images of `drop_B`; bool [B]."""

    def one(given: jax.Array, nothing: jax.Array) -> jax.Array:
        return jnp.where(drop_B.reshape(-1, *(1,) * (given.ndim - 1)), nothing, given)

    return jax.tree.map(one, condition, null)


def split_prompts(text: str) -> list[str]:
    r"""Prompts with | between them, where \| stands for a | within one."""
    return [part.replace(r"\|", "|").strip() for part in re.split(r"(?<!\\)\|", text)]


class Conditioned:
    """A source whose examples have "condition" as a number, with what `take` gives for it."""

    def __init__(self, source: Source, conditions: Conditions) -> None:
        self._source, self._conditions = source, conditions

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """See `ddjax.data.sources.Source`."""
        examples = self._source.take(rows)
        return {**examples, "condition": self._conditions.take(examples["condition"])}

    def encode(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch on the devices, with what models read."""
        return {**batch, "condition": self._conditions.encode(batch["condition"])}


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
