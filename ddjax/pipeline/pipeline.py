"""Pipeline: draw images from a finished run or from model folders, in Python.

    pipe = ddjax.Pipeline.from_workdir("runs/digits")
    out = pipe(labels=[3, 3, 7], method="refine_1", seed=5)
    out.pil()[0].show()
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.config import reading
from ddjax.config.schema import Config
from ddjax.data.conditions import Classes, Conditions
from ddjax.evaluation.pixels import to_unit
from ddjax.method import trajectory, ways
from ddjax.method.flow import Solver
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.method.protocols import Tokenizer
from ddjax.method.sampling import Models, Settings, coded, decode
from ddjax.pipeline.outputs import Output, Trajectory
from ddjax.pipeline.sampler import Sampler, slices
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder, run_models, workdir


class Pipeline(Sampler):
    """A teacher, its student, or both, ready to draw; see `Sampler` for what it is made of."""

    @classmethod
    def from_workdir(cls, root: str | Path, batch: int = 64) -> "Pipeline":
        """The models of a run.

        Args:
          root: the workdir.
          batch: images at once.

        Raises:
          UserError: nothing there to draw with.
        """
        root = Path(root)
        made = [root / stage for stage in ("distill", "pairs", "teacher")]
        for folder in (*made, *sorted(root.glob("sample/*"))):
            if found := workdir.read_config(folder):
                return cls.from_config(reading.from_dict(found), root, batch)
        raise UserError(
            f"{root} is no workdir of a run that has a teacher or a student; give the folder that "
            "python -m ddjax.main was given as --workdir"
        )

    @classmethod
    def from_config(cls, config: Config, root: Path, batch: int = 64) -> "Pipeline":
        """The models that a config names, or that were trained in a workdir.

        Args:
          config: of the run.
          root: the workdir.
          batch: images at once.
        """
        conditions = run_models.conditions(config)
        load = functools.partial(run_models.part, config, root, conditions)
        return cls(load, config.sampling, conditions, batch)

    @classmethod
    def from_folders(
        cls,
        tokenizer: str | Path,
        *,
        student: str | Path | None = None,
        teacher: str | Path | None = None,
        conditions: Conditions | None = None,
        steps: tuple[int, ...] = (0,),
        split: int | None = None,
        guidance: Guidance | None = None,
        solver: Solver | None = None,
        dtype: str | None = None,
        batch: int = 64,
    ) -> "Pipeline":
        """Models from model folders, as the converter makes them.

        Args:
          tokenizer: its folder.
          student: likewise.
          teacher: likewise.
          conditions: of the models; their classes by default. Needed for models of captions.
          steps: values of k that the student is sampled with.
          split: the student's first groups that are read from its logits; all by default.
          guidance: how the teacher is sampled; none by default.
          solver: of the flow map.
          dtype: what teacher and student compute in, such as "bfloat16".
          batch: images at once.

        Raises:
          UserError: a folder is missing or damaged, neither student nor teacher is given, or
            conditions are missing.
        """
        folders = {"tokenizer": tokenizer, "student": student, "teacher": teacher}
        if student is None and teacher is None:
            raise UserError("Pipeline.from_folders: give student=FOLDER, teacher=FOLDER or both")

        def load(name: str) -> Any:
            if name == "sizes":
                return sizes
            if folders.get(name) is None:
                raise UserError(f"this method needs a {name}, which the pipeline was not given")
            return model_folder.load(folders[name], dtype=None if name == "tokenizer" else dtype)

        sizes = model_folder.read_sizes(Path(student or teacher))
        if conditions is None and not sizes.num_classes:
            raise UserError(
                f"{student or teacher} reads captions; give conditions=, or draw with a run that "
                "has a text encoder (Pipeline.from_workdir, or --workdir of ddjax.demo)"
            )
        split = sizes.groups.count if split is None else split
        settings = Settings(tuple(steps), split, guidance or Guidance(), solver or Solver())
        return cls(load, settings, conditions or Classes(sizes.num_classes), batch)

    def guided(self, guidance: Guidance) -> "Pipeline":
        """The same models, with the teacher sampled in another way."""
        settings = dataclasses.replace(self.settings, guidance=guidance)
        return Pipeline(
            self._load, settings, self.conditions, self.batch, list(self.mesh.devices.flat)
        )

    def __call__(
        self,
        labels: Sequence[int] | None = None,
        *,
        captions: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        method: str = "student_1step",
        seed: int = 0,
        noise: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        log_probs: bool = False,
    ) -> Output:
        """Draw an image for each condition.

        Args:
          labels: classes, where the models are conditioned on classes.
          captions: numbers of the captions, where they are conditioned on captions.
          prompts: captions of one's own, where there is a text encoder.
          method: by name, see `ddjax.method.ways`.
          seed: of the noise, and of what is drawn beside it.
          noise: [N, L, C] to take instead.
          ids: [N, P] to start from: tokens of whole groups, or of whole images.
          log_probs: whether to give `Output.log_probs` too.

        Raises:
          UserError: conditions, noise or ids that do not fit, or a method that there is not.
        """
        way, (conditions, numbers) = ways.parse(method), self._asked(labels, captions, prompts)
        if log_probs and not way.has_log_probs:
            raise UserError(f"{method}: not all of its ids are chosen from log-probabilities")
        if ids is not None and not way.continues:
            raise UserError(f"{method} cannot start from ids")
        noise = self._noise(noise, len(numbers), seed)
        ids = trajectory.no_prefix(len(numbers)) if ids is None else _checked_ids(
            ids, len(numbers), self.models(way)
        )
        want = ("images", "ids", "log_probs") if log_probs else ("images", "ids")
        drawn, seconds = self.draw(
            way, numbers, noise, seed=seed, ids=ids, want=want, conditions=conditions
        )
        titles = [conditions.title(number) for number in numbers]
        return Output(to_unit(drawn.images), drawn.ids, titles, seconds, drawn.log_probs)

    def trajectory(
        self,
        labels: Sequence[int] | None = None,
        *,
        captions: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        method: str = "teacher_flow",
        seed: int = 0,
        noise: np.ndarray | None = None,
        steps: Sequence[int] | None = None,
    ) -> Trajectory:
        """The images X_0 .. X_G on the way from noise to what a method draws.

        Args:
          labels: as in a call.
          captions: likewise.
          prompts: likewise.
          method: one that maps noise.
          seed: of the noise.
          noise: [N, L, C] to take instead.
          steps: values of k; all by default.

        Raises:
          UserError: the method is not a function of the noise; else as `__call__`.
        """
        way, (conditions, numbers) = ways.parse(method), self._asked(labels, captions, prompts)
        if not way.maps_noise:
            known = ", ".join(one.pattern for one in ways.WAYS if one.maps_noise)
            raise UserError(f"{method} does not map noise; trajectories are of {known}")
        noise = self._noise(noise, len(numbers), seed)
        ids = self.draw(
            way, numbers, noise, seed=seed, want=("ids",), conditions=conditions
        )[0].ids
        chosen = tuple(range(self.groups.count + 1) if steps is None else steps)
        return Trajectory(np.stack([self.images_at(k, ids, noise) for k in chosen]), chosen, ids)

    def images_at(self, k: int, ids: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """X_k decoded: the first k groups of ids [N, L], noise [N, L, C] behind.

        Returns:
          [N, H, W, channels] in 0..1.
        """
        tokenizer = self._load("tokenizer")
        with jax.set_mesh(self.mesh):
            return to_unit(np.concatenate([
                np.asarray(_decode_x_k(tokenizer, k, ids[rows], noise[rows], groups=self.groups))
                for rows in slices(len(ids), self.batch)
            ]))

    def _noise(self, noise: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        """The noise [N, L, C] that is given, or the seed's."""
        if noise is None:
            return self.noise(count, seed)
        return _checked_noise(noise, (count, *self.noise_shape))

    def _asked(
        self,
        labels: Sequence[int] | None,
        captions: Sequence[int] | None,
        prompts: Sequence[str] | None,
    ) -> tuple[Conditions, np.ndarray]:
        """The conditions that are meant, and their numbers."""
        given, key = {"labels": labels, "captions": captions}, self.conditions.key
        if prompts is not None and (labels is not None or captions is not None):
            raise UserError("conditions: got prompts and others; give one of them")
        if prompts is not None:
            return self.conditions.of_prompts(prompts), np.arange(len(prompts), dtype=np.int32)
        other = [name for name, asked in given.items() if asked is not None and name != key]
        if other or given[key] is None or not len(given[key]):
            found = other[0] if other else "none"
            raise UserError(f"conditions: got {found}, give {key}=[...], one for each image")
        return self.conditions, self.conditions.checked(given[key], key)


@functools.partial(jax.jit, static_argnames="groups")
def _decode_x_k(
    tokenizer: Tokenizer, k: jax.Array, ids_BL: jax.Array, eps_BLC: jax.Array, *, groups: Groups
) -> jax.Array:
    data_BLC = coded(ids_BL, tokenizer.codebook)
    return decode(tokenizer, trajectory.x_at(k, data_BLC, eps_BLC, groups))


def _checked_noise(noise: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.asarray(noise, np.float32)
    if noise.shape != shape or not np.isfinite(noise).all():
        raise UserError(f"noise: got {list(noise.shape)}, must be {list(shape)} finite numbers")
    return noise


def _checked_ids(ids: np.ndarray, count: int, models: Models) -> np.ndarray:
    ids, vocab = np.asarray(ids), len(models.tokenizer.codebook)
    if ids.ndim != 2 or len(ids) != count or not np.issubdtype(ids.dtype, np.integer):
        found = f"{ids.dtype}{list(ids.shape)}"
        raise UserError(f"ids: got {found}, must be integers [{count}, tokens]")
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab):
        raise UserError(f"ids: got {ids.min()}..{ids.max()}, must be in 0..{vocab - 1}")
    try:
        models.groups.before(ids.shape[1])
    except ValueError as error:
        raise UserError(f"ids: {error}") from None
    return ids.astype(np.int32)
