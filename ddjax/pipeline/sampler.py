"""Sampler: images in batches of one size, from models that are read when a way needs them."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data.conditions import Conditions
from ddjax.method import keys, trajectory
from ddjax.method.groups import Groups
from ddjax.method.sampling import Images, Models, Settings, check_finite, draw_images
from ddjax.method.ways import Way
from ddjax.runtime import progress, sharding
from ddjax.runtime.errors import UserError


class Sampler:
    """Models of a run, or from model folders, and what it takes to draw with them.

    Args:
      load: gives a field of `Models` by its name, or the "sizes" of the teacher and its student;
        called once for each.
      settings: the numbers behind the methods.
      conditions: what images are made from.
      batch: images at once, on each device.
      devices: one of this process by default.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        settings: Settings,
        conditions: Conditions,
        batch: int = 64,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        self.settings, self.conditions, self.batch = settings, conditions, batch
        self.mesh = sharding.make_mesh(1, list(devices or jax.local_devices()[:1]))
        self._load, self._compiled = functools.cache(load), {}

    @property
    def groups(self) -> Groups:
        """How the L tokens of an image are cut."""
        return self._load("sizes").groups

    @property
    def codebook(self) -> jax.Array:
        """The codes [V, C]."""
        return self._load("tokenizer").codebook

    @functools.cached_property
    def noise_shape(self) -> tuple[int, int]:
        """L and C: the noise of an image is [L, C]."""
        sizes = self._load("sizes")
        return sizes.groups.length, sizes.code_dim

    def noise(self, count: int, seed: int) -> np.ndarray:
        """The noise [N, L, C] of a seed."""
        with jax.set_mesh(self.mesh):
            return np.asarray(keys.noise(
                keys.stream(seed, "sample.noise"), jnp.arange(count), *self.noise_shape
            ))

    def draw(
        self,
        way: Way,
        numbers: np.ndarray,
        noise: np.ndarray,
        *,
        seed: int = 0,
        ids: np.ndarray | None = None,
        want: tuple[str, ...] = ("images", "ids"),
        conditions: Conditions | None = None,
    ) -> tuple[Images, float]:
        """Draw in batches of one size, so that each way is compiled once.

        Args:
          way: how.
          numbers: of the conditions, [N].
          noise: [N, L, C].
          seed: of what is drawn beside the noise.
          ids: [N, P] to start from.
          want: fields of `Images`.
          conditions: in place of the sampler's.

        Returns:
          What is wanted, on the host, and the seconds that drawing took.
        """
        count, devices = len(numbers), self.mesh.size
        size = min(self.batch, -(-count // devices)) * devices
        ids = trajectory.no_prefix(count) if ids is None else ids
        made, seconds = [], 0.0
        for rows in progress.bar(slices(count, size), "sample", -(-count // size)):
            index = np.arange(rows.start, rows.start + size, dtype=np.int32)
            row = np.minimum(index, count - 1)  # the last once more where a batch is not full
            run = self.program(
                way, noise[row], numbers[row], index, ids[row], seed, want, conditions
            )
            begin = time.perf_counter()
            found = jax.block_until_ready(run())
            seconds += time.perf_counter() - begin
            found = jax.tree.map(np.asarray, found)
            if found.images is not None:
                check_finite(way.name, found.images, rows.start)
            made.append(found)
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *made), seconds

    def program(
        self,
        way: Way,
        noise: np.ndarray,
        numbers: np.ndarray,
        index: np.ndarray,
        ids: np.ndarray,
        seed: int,
        want: tuple[str, ...],
        conditions: Conditions | None = None,
    ) -> Callable[[], Images]:
        """`draw_images` of a batch, compiled once for a way and shapes, ready to be called.

        Args:
          way: how.
          noise: [B, L, C].
          numbers: of the conditions, [B].
          index: numbers of the images, [B].
          ids: [B, P] to start from.
          seed: of what is drawn beside the noise.
          want: fields of `Images`.
          conditions: in place of the sampler's.
        """
        models, key = self.models(way), keys.stream(seed, "sample.draw")
        given = conditions or self.conditions
        with jax.set_mesh(self.mesh):
            eps, condition, *rest = sharding.shard_batch(
                (np.asarray(noise), given.take(numbers), given.bucket(numbers), index,
                 np.asarray(ids)), len(numbers),
            )
            batch = eps, given.encode(condition), *rest
            shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
            if (way, want, shapes) not in self._compiled:
                lowered = draw_images.lower(
                    models, key, *batch, way=way, settings=self.settings, want=want
                )
                self._compiled[way, want, shapes] = lowered.compile()
        return functools.partial(self._compiled[way, want, shapes], models, key, *batch)

    def prepare(
        self,
        way: Way,
        count: int,
        want: tuple[str, ...] = ("images", "ids"),
        conditions: Conditions | None = None,
    ) -> int:
        """Compile what draws `count` images, unless that was done.

        Args:
          way: how.
          count: of the images.
          want: fields of `Images`.
          conditions: in place of the sampler's.

        Returns:
          Bytes that drawing takes on a device, beside those of the models.
        """
        devices = self.mesh.size
        size = min(self.batch, -(-count // devices)) * devices
        index = np.arange(size, dtype=np.int32)
        program = self.program(
            way, np.zeros((size, *self.noise_shape), np.float32), np.zeros_like(index), index,
            trajectory.no_prefix(size), 0, want, conditions,
        )
        needs = program.func.memory_analysis()
        return needs.temp_size_in_bytes + needs.output_size_in_bytes

    def models(self, way: Way) -> Models:
        """What a way reads.

        Raises:
          UserError: its numbers do not fit, or a model is missing or damaged.
        """
        sizes = self._load("sizes")
        if problem := way.problem(sizes.groups, self.settings):
            raise UserError(f"{way.name}: {problem}")
        with jax.set_mesh(self.mesh):
            return Models(**{name: self._load(name) for name in ("tokenizer", *way.reads)})


def slices(count: int, size: int) -> list[slice]:
    """`count` rows in pieces of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
