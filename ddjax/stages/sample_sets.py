"""Sets of samples: drawn by the ways of sampling, measured while they are drawn."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.config.schema import SHAPES, Config
from ddjax.evaluation import kept_images, measuring
from ddjax.evaluation.collecting import Dispatched, collect
from ddjax.evaluation.image_text import ImageText
from ddjax.evaluation.making import Keep
from ddjax.evaluation.measuring import Measure, Seen
from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics import Observed
from ddjax.method import keys, ways
from ddjax.method.sampling import Models, draw_images
from ddjax.method.ways import Way
from ddjax.runtime import hosts, sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features
from ddjax.storage import files, run_models

TEACHER, EXACT = ways.TeacherAR(), ways.TeacherFlow()
REFERENCE = "reference"

_noise = jax.jit(keys.noise, static_argnums=(2, 3))


class SampleSets:
    """Draws sets of samples into folders; all ways share conditions, and noise set by set.

    Args:
      config: of the run.
      directory: of the stage, in the workdir.
      measure: the net that sees the samples.
      methods: that will be drawn.
      keeps_feature: which images' features precision and recall need.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        measure: Measure,
        methods: list[Way],
        keeps_feature: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.config, self.directory, self.measure = config, directory, measure
        self.methods, self._keeps_feature = methods, keeps_feature
        self.conditions = caption_features.conditions(config)
        reads = ("tokenizer", *sorted({part for way in (TEACHER, *methods) for part in way.reads}))
        check_models(config, directory, reads)
        self.models = Models(**{
            part: run_models.part(config, directory.parent, self.conditions, part)
            for part in reads
        })
        self.numbers = self._numbers()
        self._clip = ImageText(config.clip) if config.clip else None

    def _numbers(self) -> np.ndarray:
        """The numbers [N] of the conditions of a set: all in turn, or drawn at random."""
        total, count = self.config.evaluate.samples, self.conditions.count
        if self.config.evaluate.labels == "random":
            rng = np.random.default_rng(self.config.seed)
            return rng.integers(count, size=total).astype(np.int32)
        return self.conditions.number(np.arange(total))

    @property
    def has_labels(self) -> bool:
        """Whether the net tells apart the classes that are asked for."""
        classes = self.conditions.count if self.conditions.key == "labels" else 0
        return classes > 1 and self.measure.net.num_classes == classes

    def folder(self, way: Way, turn: int | str) -> SetFolder:
        """The folder of a set: of its number, or of `REFERENCE`."""
        name = turn if turn == REFERENCE else f"set_{turn}"
        directory, kind = self.directory / way.name / name, self.config.evaluate.keep
        writer = kept_images.writer(directory, "" if turn == REFERENCE else kind)
        keep = Keep(self._keeps_feature, ids=way == EXACT, write=writer)
        return SetFolder(directory, self.config.evaluate.samples, keep)

    def make_all(self) -> None:
        """Draw all sets that are not there, and a further one of the teacher's."""
        self._make(TEACHER, REFERENCE)
        # The exact map first: the others' tokens are compared with its.
        for way in sorted(self.methods, key=lambda way: way != EXACT):
            for i in range(self.config.evaluate.sets):
                self._make(way, i)
                kept_images.finish(self.folder(way, i), self.config.evaluate.keep)

    def _make(self, way: Way, turn: int | str) -> None:
        noise_key, draw_key = (
            keys.stream(self.config.seed, f"evaluate.{name}.{what}")
            for what in ("noise", "draw")
            for name in [turn if turn == REFERENCE else f"set {turn}"]
        )
        batch = self.measure.batch

        def dispatch(first: int, timed: bool) -> Dispatched:
            inputs = self._inputs(noise_key, first)
            begin = time.perf_counter() if timed and jax.block_until_ready(inputs) else 0.0
            drawn = draw_images(
                self.models, draw_key, *inputs, way=way, settings=self.config.sampling
            )
            seconds = None
            if timed:
                jax.block_until_ready(drawn)
                seconds = time.perf_counter() - begin
            seen = measuring.see(self.measure.net, drawn.images)
            return Dispatched((seen, drawn.ids, self._cosines(seen, first)), seconds)

        def fetch(first: int, value: Any) -> Observed:
            return self._observed(way, turn, first, value)

        collect(
            self.folder(way, turn), f"evaluate {way.name}", batch=batch, dispatch=dispatch,
            fetch=fetch, save_every=self.measure.save_every,
        )

    def _observed(self, way: Way, turn: int | str, first: int, value: Any) -> Observed:
        (seen, ids, cosine), batch = value, self.measure.batch
        rows = self._rows(first + sharding.local_rows(batch))
        ids_BL = sharding.local_to_host(ids)
        exact_BL = None
        if way == EXACT:
            exact_BL = ids_BL
        elif EXACT in self.methods and turn != REFERENCE:
            exact_BL = self._exact(turn)[rows]
        number_B = self.numbers[rows]
        return measuring.observed(
            seen, way.name, first, batch, len(self.numbers), number_B=number_B, ids_BL=ids_BL,
            label_B=number_B if self.has_labels else None, exact_ids_BL=exact_BL,
            scene_B=number_B if self.config.data.name == SHAPES else None,
            cosine_B=None if cosine is None else sharding.local_to_host(cosine),
        )

    def _cosines(self, seen: Seen, first: int) -> jax.Array | None:
        """Cosines [B] of images and their captions; None without CLIP."""
        if self._clip is None:
            return None
        rows = self._rows(first + sharding.local_rows(self.measure.batch))
        texts = [self.conditions.title(number) for number in self.numbers[rows]]
        return self._clip.cosines(seen.levels_BHWC, texts, self.measure.batch)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _exact(self, turn: int) -> np.ndarray:
        """The ids [N, L] of the exact map in a set."""
        return self.folder(EXACT, turn).rows("ids")

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """The last one again behind the end of the set."""
        return np.minimum(rows, len(self.numbers) - 1)

    def _inputs(self, noise_key: jax.Array, first: int) -> tuple:
        """What `draw_images` takes behind models and key: noise, condition, bucket, ..."""
        rows = (first + sharding.local_rows(self.measure.batch)).astype(np.int32)
        number = self.numbers[self._rows(rows)]
        index, condition, bucket, prefix = sharding.shard_batch(
            (rows, self.conditions.take(number), self.conditions.bucket(number),
             np.zeros((len(rows), 0), np.int32)),
            self.measure.batch,
        )
        code_dim = self.models.tokenizer.codebook.shape[1]
        noise = _noise(noise_key, index, self.config.groups.length, code_dim)
        return noise, self.conditions.encode(condition), bucket, index, prefix


def check_models(config: Config, directory: Path, parts: tuple[str, ...]) -> None:
    """Refuse a folder with samples of other models than are there now.

    Args:
      config: of the run.
      directory: of the stage; remembers the models.
      parts: what is drawn with, fields of `Models`.

    Raises:
      UserError: names the models.
    """
    path, root = directory / "drawn_with.json", directory.parent
    now = {part: run_models.digest(config, root, part) for part in parts if part != "marginals"}
    if "marginals" in parts:
        now["marginals"] = files.digest(root / "pairs" / "manifest.json")
    again = f"move {directory} aside and start the same command again"
    before = files.read_json_with_digest(path, again)
    hosts.barrier("models of before read")
    if before is None and hosts.is_first():
        files.write_json_with_digest(path, now)
    other = [part for part in now if before is not None and before.get(part) != now[part]]
    if other:
        raise UserError(
            f"{directory} holds samples of another {' and '.join(other)} than is there now; put "
            f"that back, or {again}"
        )
