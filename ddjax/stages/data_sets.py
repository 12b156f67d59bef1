"""Sets of data: the run's own images in two halves, as the reference and as rows of the report."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.config.schema import SHAPES, Config
from ddjax.data import datasets
from ddjax.data.sources import Source
from ddjax.evaluation.making import Keep
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import Samples, measured
from ddjax.evaluation.reference import Reference, among
from ddjax.evaluation.set_folder import SetFolder
from ddjax.method.protocols import Tokenizer
from ddjax.runtime import sharding
from ddjax.stages import tokenizer as tokenizer_stage

HALVES = ("half_0", "half_1")

# Of the data, at most so many images are compared with each other.
MOST_COMPARED = 50_000


class Shuffled:
    """Some examples of a source in an order of their own, with what metrics read of them.

    Args:
      source: of the data.
      order: numbers of the examples.
      has_labels: whether the net tells their classes apart.
      has_scenes: whether they are pictures of shapes.
    """

    def __init__(
        self, source: Source, order: np.ndarray, has_labels: bool, has_scenes: bool
    ) -> None:
        self._source, self._order = source, order
        self._has_labels, self._has_scenes = has_labels, has_scenes

    def __len__(self) -> int:
        return len(self._order)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """"image", and "label_B" and "scene_B" where there are such."""
        found = self._source.take(self._order[rows])
        taken = {"image": found["image"]}
        if self._has_labels:
            taken["label_B"] = found["label"]
        if self._has_scenes:
            taken["scene_B"] = found["condition"]
        return taken


class DataSets:
    """The data of a run, `images`, measured into folders.

    Args:
      config: of the run.
      directory: of the stage, in the workdir.
      measure: the net that sees them.
      has_labels: whether it tells their classes apart.
    """

    def __init__(
        self, config: Config, directory: Path, measure: Measure, has_labels: bool
    ) -> None:
        self._config, self._directory, self._measure = config, directory / "data", measure
        self.images = datasets.source(config.data)
        order = np.random.default_rng(config.seed).permutation(len(self.images))
        about = (has_labels, config.data.name == SHAPES)
        self._sources = {
            name: Shuffled(self.images, numbers, *about) for name, numbers in
            zip((*HALVES, "reconstruction"), (*np.array_split(order, 2), order),
                strict=True)
        }

    def make_all(self, tokenizer: Tokenizer) -> None:
        """Measure what is not there: both halves, and all of it through the tokenizer."""
        rebuild = jax.jit(sharding.per_device(tokenizer_stage.reconstruct, replicated=1))
        changes = {"reconstruction": {"change": functools.partial(rebuild, tokenizer)}}
        for name, source in self._sources.items():
            self._measure.images(self._folder(name), name, source, **changes.get(name, {}))

    def reference(self) -> Reference:
        """All of the data."""
        features = np.concatenate([self._folder(half).rows("features") for half in HALVES])
        return self._reference(self._whole(), features)

    def rows(self, reference: Reference) -> list[dict[str, Any]]:
        """One half against the other, and the data through the tokenizer against a reference."""
        half, other = (self._samples(name) for name in HALVES)
        floor = measured("data_floor", [half], self._reference(other, other.features_NF))
        whole = measured("", [self._whole()], reference)
        floor["class_accuracy"] = whole["class_accuracy"]
        return [floor, measured("reconstruction", [self._samples("reconstruction")], reference)]

    def _reference(self, samples: Samples, features_NF: np.ndarray) -> Reference:
        network, section = self._measure.network, self._config.evaluate
        most, compared = among(network)
        # As many of the data as of the samples, but where all samples are compared.
        most = most if compared is None else min(most, section.samples)
        return Reference(
            network, f"the data, {self._config.data.name}", samples.count,
            samples.pooled, samples.spatial, features_NF[:most], neighbours=section.neighbours,
        )

    def _whole(self) -> Samples:
        half, other = (self._folder(name).read().statistics for name in HALVES)
        half.splits = None  # scores of halves make none of the whole
        other.splits = None
        half.merge(other)
        return Samples(half)

    def _samples(self, name: str) -> Samples:
        folder = self._folder(name)
        return Samples(folder.read().statistics, folder.rows("features"))

    def _folder(self, name: str) -> SetFolder:
        most = min(among(self._measure.network).samples or MOST_COMPARED, MOST_COMPARED)
        total = len(self._sources[name])
        return SetFolder(self._directory / name, total, Keep(lambda index: index < most))
