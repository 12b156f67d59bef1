"""Held-out validation of a student while it is trained: one-step samples of new noise.

tokens_equal: share of ids that are those of the teacher's map for the same noise. fd: Fréchet
distance to the teacher's images of as much other held-out noise, in the features that the
evaluation compares.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.config.schema import Config
from ddjax.data.conditions import Conditions
from ddjax.evaluation.frechet import Gaussian, frechet_distance
from ddjax.method import keys
from ddjax.method.sampling import check_finite, student_sample
from ddjax.runtime import progress, sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import feature_net, pair_generation
from ddjax.storage import files
from ddjax.training.validation import Validation

# By which value of these the best student is chosen.
BETTER = {"": max, "tokens_equal": max, "fd": min}


def validation(
    config: Config, directory: Path, teacher: nnx.Module, tokenizer: nnx.Module,
    conditions: Conditions,
) -> Validation | None:
    """The validation that a config asks for, or None.

    Args:
      config: of the run.
      directory: of the stage distill; keeps the ids of the teacher's map.
      teacher: of the run.
      tokenizer: of the run.
      conditions: of the run.
    """
    section = config.distill
    if not section.validate_every:
        return None
    held_out = HeldOut(config, directory, tokenizer, conditions)
    held_out.prepare(teacher)
    features = feature_net.digest_for_evaluation(config, directory.parent)
    return Validation(
        held_out.measure, section.validate_every,
        {"samples": section.validate_samples, "features": features},
        section.keep_best, BETTER[section.keep_best],
    )


class HeldOut:
    """Noise that no pair has. The student draws the first half, the teacher both.

    Args:
      config: of the run.
      directory: of the stage distill.
      tokenizer: of the run.
      conditions: of the run.
    """

    def __init__(
        self, config: Config, directory: Path, tokenizer: nnx.Module, conditions: Conditions
    ) -> None:
        self._config, self._tokenizer, self._conditions = config, tokenizer, conditions
        self._samples = config.distill.validate_samples
        self._path = directory / f"held_out_{2 * self._samples}.npy"
        self._net = feature_net.for_evaluation(config, directory.parent)
        self._noise = functools.partial(
            _noise, keys.stream(config.seed, "distill.validation"),
            length=config.groups.length, code_dim=tokenizer.codebook.shape[1],
        )
        self._draw = jax.jit(functools.partial(_draw, split=config.student.split))

    def prepare(self, teacher: nnx.Module) -> None:
        """Map the noise with the teacher, unless that was done, and measure its images.

        Raises:
          UserError: a log-probability is not finite, or what is there is damaged.
        """
        if not self._path.exists():
            ids_NL = self._mapped(teacher)
            if jax.process_index() == 0:
                with files.atomic(self._path) as temporary, temporary.open("wb") as file:
                    np.save(file, ids_NL)
        else:
            ids_NL = self._read()
        self._ids, other = np.split(ids_NL, 2)
        self._teacher = Gaussian.of(self._features_of(other))

    def measure(self, student: nnx.Module) -> dict[str, float]:
        """`tokens_equal` and `fd` of a student.

        Raises:
          UserError: an image is not finite.
        """
        ids, features = [], []
        batch = self._config.evaluate.batch * sharding.devices()
        for start in range(0, self._samples, batch):
            eps, condition = self._inputs(start, batch)
            drawn = self._draw(student, self._tokenizer, self._net, eps, condition)
            ids.append(drawn[0])
            features.append(drawn[1])
        ids, features = (_whole(parts, self._samples) for parts in (ids, features))
        check_finite("student_1step, held-out noise", features, 0)
        return {
            "tokens_equal": float(np.mean(ids == self._ids)),
            "fd": frechet_distance(Gaussian.of(features), self._teacher),
        }

    def _inputs(self, start: int, batch: int) -> tuple[jax.Array, Any]:
        rows = (start + sharding.local_rows(batch)).astype(np.int32)
        condition = self._conditions.take(self._conditions.number(rows))
        index_B, condition = sharding.shard_batch((rows, condition), batch)
        return self._noise(index_B), self._conditions.encode(condition)

    def _mapped(self, teacher: nnx.Module) -> np.ndarray:
        """Ids [N, L] uint16 of the teacher's map."""
        config, made = self._config, []
        batch = config.pairs.batch * sharding.devices()
        starts = range(0, 2 * self._samples, batch)
        for start in progress.bar(starts, "held-out noise", len(starts)):
            ids = sharding.to_host(pair_generation.map_batch(
                teacher, self._tokenizer.codebook, *self._inputs(start, batch),
                guidance=config.guidance, solver=config.flow,
            ))
            pair_generation.refuse_not_finite(ids, "the held-out noise", start // batch, start)
            made.append(ids)
        return np.concatenate(made)[: 2 * self._samples].astype(np.uint16)

    def _read(self) -> np.ndarray:
        wanted = (2 * self._samples, self._config.groups.length)
        try:
            found = np.load(self._path)
            problem = "" if found.shape == wanted else f"its shape is {found.shape}, not {wanted}"
        except (ValueError, EOFError) as error:
            problem = str(error)
        if problem:
            raise UserError(f"{self._path} is damaged ({problem}); move it aside: it is made again")
        return found

    def _features_of(self, ids_NL: np.ndarray) -> np.ndarray:
        """Features [N, F] of the images of ids."""
        batch, made = self._config.evaluate.batch * sharding.devices(), []
        for start in range(0, len(ids_NL), batch):
            # The last rows once more where a batch is not full.
            rows = np.minimum(start + sharding.local_rows(batch), len(ids_NL) - 1)
            ids = sharding.shard_batch(ids_NL[rows].astype(np.int32), batch)
            made.append(_decoded_features(self._tokenizer, self._net, ids))
        return _whole(made, len(ids_NL))


def _whole(parts: list[jax.Array], count: int) -> np.ndarray:
    return np.concatenate([sharding.to_host(part) for part in parts])[:count]


@functools.partial(jax.jit, static_argnames=("length", "code_dim"))
def _noise(key: jax.Array, index_B: jax.Array, *, length: int, code_dim: int) -> jax.Array:
    return keys.noise(key, index_B, length, code_dim)


@jax.jit
def _decoded_features(
    tokenizer: nnx.Module, net: nnx.Module, ids_BL: jax.Array
) -> jax.Array:
    return net.features(tokenizer.decode(tokenizer.codebook[ids_BL]))


def _draw(
    student: nnx.Module, tokenizer: nnx.Module, net: nnx.Module, eps_BLC: jax.Array,
    condition: Any, *, split: int,
) -> tuple[jax.Array, jax.Array]:
    """Ids [B, L] and features [B, F] of one-step samples."""
    drawn = student_sample(
        sharding.gather_unstacked(student), tokenizer.codebook, eps_BLC, condition, steps=(0,),
        split=split,
    )
    features = net.features(tokenizer.decode(drawn.x_BLC))
    return drawn.ids_BL, features.astype(jnp.float32)
