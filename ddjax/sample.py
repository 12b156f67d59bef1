"""Every way of making an image, and the stage `sample`.

Sampling with the student follows section 3.4 of the paper and the released code; refinement is
ours (`ddjax.trajectory.refine`).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax import (
    baselines,
    files,
    flow,
    hosts,
    keys,
    parts,
    pictures,
    progress,
    sharding,
    trajectory,
    workdir,
)
from ddjax.config import Config
from ddjax.errors import UserError
from ddjax.guidance import Guidance, Guided
from ddjax.methods import Method
from ddjax.pair_store import Store
from ddjax.workdir import Stage

# Images in a row of the picture.
COLUMNS = 10


class Parts(NamedTuple):
    """What sampling reads; None where no method needs it."""

    tokenizer: nnx.Module
    teacher: nnx.Module | None
    student: nnx.Module | None
    pool_NL: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers behind all methods; see the classes of the same keys in `ddjax.config`."""

    steps: tuple[int, ...]
    split: int
    guidance: Guidance
    solver: flow.Solver
    num_classes: int

    @classmethod
    def of(cls, config: Config) -> "Settings":
        """Those of a run."""
        student = config.student
        return cls(
            student.steps, student.split, config.guidance, config.flow, config.data.num_classes
        )


def student_sample(
    student: nnx.Module,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    *,
    steps: tuple[int, ...],
    split: int,
    x_BLC: jax.Array | None = None,
) -> jax.Array:
    """Sample with the student: for each k predict X_G from X_k, always with the same noise.

    Args:
      student: predicts logits and vectors from X_k.
      codes_VC: the codebook.
      eps_BLC: the noise.
      condition: pytree with leading axis B.
      steps: values of k, in order; (0,) is one step.
      split: the first `split` groups are read from the logits, the rest are vectors.
      x_BLC: where the data of the first step comes from, if it is not at k = 0.

    Returns:
      vectors [B, L, C], as they go to the decoder.
    """
    is_code = student.groups.is_data(split)[None, :, None]
    x = eps_BLC if x_BLC is None else x_BLC
    for k in steps:
        x_k = trajectory.x_at(k, x, eps_BLC, student.groups)
        logits, vectors = student(x_k, k, condition)
        codes = codes_VC[jnp.argmax(logits, axis=-1)]
        predicted = jnp.where(jnp.broadcast_to(is_code, codes.shape), codes, vectors)
        x = trajectory.x_at(k, x, predicted, student.groups)
    return x


def draw(
    parts: Parts, eps_BLC: jax.Array, condition: Any, key: jax.Array, *, method: Method,
    settings: Settings,
) -> jax.Array:
    """Code vectors [B, L, C] by a method; `key` is for the methods that draw beside the noise.

    Not a number where the teacher's log-probabilities are none.
    """
    s, codes_VC = settings, parts.tokenizer.codebook
    teacher = parts.teacher and Guided(parts.teacher, s.guidance)
    batch = eps_BLC.shape[0]
    student = functools.partial(
        student_sample, parts.student, codes_VC, eps_BLC, condition, split=s.split
    )

    def codes(ids: jax.Array) -> jax.Array:
        return jnp.where(ids[..., None] < 0, jnp.nan, codes_VC[ids])

    def involved() -> jax.Array:
        tokens = int(teacher.groups.starts[method.first])
        ids = trajectory.no_prefix(batch)
        if method.first:
            ids = flow.nearest_ids(student(steps=(0,)), codes_VC)[:, :tokens]
        ids = trajectory.sample_ids(teacher, condition, key, ids, stop=method.last)
        if method.last == teacher.groups.count:
            return codes(ids)
        rest = teacher.groups.length - ids.shape[1]
        x = jnp.pad(codes(ids), ((0, 0), (0, rest), (0, 0)))
        return student(steps=(method.last,), x_BLC=x)

    def refined() -> jax.Array:
        ids = flow.nearest_ids(student(steps=(0,)), codes_VC)
        return codes(
            trajectory.refine(
                teacher, condition, eps_BLC, codes_VC, s.solver, ids, passes=method.first
            )
        )

    ways: dict[str, Callable[[], jax.Array]] = {
        "teacher_ar": lambda: codes(
            trajectory.sample_ids(teacher, condition, key, trajectory.no_prefix(batch))
        ),
        "teacher_flow": lambda: codes(
            trajectory.map_noise(teacher, condition, eps_BLC, codes_VC, s.solver)
        ),
        "student": lambda: student(steps=s.steps[: method.first]),
        "teacher_involved": involved,
        "refine": refined,
        "skip": lambda: codes(
            baselines.skip(teacher, condition, parts.pool_NL, s.num_classes, method.first, key)
        ),
        "onestep_class": lambda: codes(
            baselines.onestep(parts.pool_NL, condition, batch, s.num_classes, key)
        ),
        "onestep_all": lambda: codes(
            baselines.onestep(parts.pool_NL, None, batch, s.num_classes, key)
        ),
    }
    return ways[method.kind]()


@functools.partial(jax.jit, static_argnames=("method", "settings"))
def draw_images(
    parts: Parts, eps_BLC: jax.Array, condition: Any, index_B: jax.Array, key: jax.Array, *,
    method: Method, settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    """Images [B, H, W, channels] and the ids [B, L] nearest to their vectors; see `draw`.

    Every device draws its share, with a key by the first of its `index_B`, the images' numbers.
    """

    def share(
        parts: Parts, key: jax.Array, eps_BLC: jax.Array, condition: Any, index_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(key, index_B[0])
        x = draw(parts, eps_BLC, condition, key, method=method, settings=settings)
        return parts.tokenizer.decode(x), flow.nearest_ids(x, parts.tokenizer.codebook)

    return sharding.each_device(share, whole=2)(parts, key, eps_BLC, condition, index_B)


def load_parts(config: Config, root: Path, methods: list[Method]) -> Parts:
    """What these methods read, of the run in a workdir."""
    needed = {stage for method in methods for stage in method.reads}

    def model(stage: str) -> nnx.Module | None:
        return parts.load(config, root, stage) if stage in needed else None

    pool = None
    if "pairs" in needed:
        pool = sharding.whole(Store(root / "pairs").all()["ids"])
    return Parts(parts.load(config, root, "tokenizer"), model("teacher"), model("distill"), pool)


def run(config: Config, stage: Stage) -> str:
    """Draw the images asked for; returns one line about it."""
    with jax.set_mesh(sharding.one_device()):
        images, ids = _draw_all(config, stage.directory.parent.parent)
    if hosts.is_first():
        _write(config, stage.directory, images, ids)
    return f"{len(images)} images by {config.sample_method().name}: " \
        f"{stage.directory / 'images.png'}"


def _draw_all(config: Config, root: Path) -> tuple[np.ndarray, np.ndarray]:
    method, labels = config.sample_method(), np.asarray(config.sample_labels(), np.int32)
    loaded = load_parts(config, root, [method])
    length, code_dim = config.groups.length, loaded.tokenizer.codebook.shape[1]
    noise_key, draw_key = (keys.stream(config.seed, f"sample.{what}") for what in ("noise", "draw"))
    batch, drawn = min(config.evaluate.batch, len(labels)), []
    starts = range(0, len(labels), batch)
    for start in progress.bar(starts, "sample", len(starts)):
        index = np.arange(start, start + batch, dtype=np.int32)
        # The last label once more where a batch is not full.
        condition = labels[np.minimum(index, len(labels) - 1)]
        eps = keys.noise(noise_key, jnp.asarray(index), length, code_dim)
        images, ids = draw_images(
            loaded, eps, condition, index, draw_key, method=method, settings=Settings.of(config)
        )
        check_finite(method, images, start)
        drawn.append((np.asarray(images), np.asarray(ids)))
    images, ids = (np.concatenate(parts)[: len(labels)] for parts in zip(*drawn, strict=True))
    return images, ids


def check_finite(method: Method, made: jax.Array | np.ndarray, first: int) -> None:
    """Refuse what comes of images that are not finite.

    Args:
      method: that made them.
      made: the images, or what a net made of them; [N, ...].
      first: number of the first.

    Raises:
      UserError: names the method and the image.
    """
    bad = ~np.isfinite(made).reshape(len(made), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{method.name}: image {first + int(bad.argmax())} is not finite; look at the weights "
            "of the models that it is drawn with, or compute in float32"
        )


def _write(config: Config, directory: Path, images: np.ndarray, ids: np.ndarray) -> None:
    labels = config.sample_labels()
    with files.atomic(directory / "images.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, images=images, ids=ids, labels=np.asarray(labels, np.int32))
    captions = [str(label) for label in labels]
    starts = range(0, len(captions), COLUMNS)
    pictures.labelled_grid(
        directory / "images.png",
        {
            f"{i} to {min(i + COLUMNS, len(images)) - 1}" if len(starts) > 1 else "":
            images[i : i + COLUMNS] for i in starts
        },
        [captions[i : i + COLUMNS] for i in starts],
        f"{config.sample_method().name}, seed {config.seed}; captions are classes",
    )


def folder(config: Config) -> str:
    """Name of the stage's folder: the same images always go to the same place."""
    labels = config.sample_labels()
    shown = "-".join(map(str, labels[:6])) + (f"-and-{len(labels) - 6}" if len(labels) > 6 else "")
    settings = json.dumps(workdir.settings(config, "sample"), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    return f"sample/{config.sample_method().name}-seed{config.seed}-labels{shown}-{digest}"
