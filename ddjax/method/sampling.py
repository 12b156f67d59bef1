"""Sampling: noise, conditions and keys to images, by any of the ways in `ddjax.method.ways`.

Sampling with the student follows section 3.4 of the paper (arXiv 2412.17153) and the released code.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.method import trajectory
from ddjax.method.baselines import Marginals
from ddjax.method.codes import nearest_ids
from ddjax.method.flow import Solver
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance, Guided
from ddjax.method.keys import per_image
from ddjax.method.protocols import RefiningStudent, Student, Teacher, Tokenizer
from ddjax.runtime import platform, sharding
from ddjax.runtime.errors import UserError


class Models(NamedTuple):
    """What sampling reads; None where no way asked for needs it."""

    tokenizer: Tokenizer
    teacher: Teacher | None = None
    student: Student | None = None
    marginals: Marginals | None = None

    @property
    def groups(self) -> Groups:
        """How the tokens of an image are cut."""
        return (self.teacher or self.student).groups


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers behind all ways of sampling.

    Attributes:
      steps: values of k that the student is sampled with, in order; the first is 0.
      split: the student's first `split` groups are read from its logits, the rest are vectors.
      guidance: how the teacher is sampled.
      solver: of the flow map.
    """

    steps: tuple[int, ...]
    split: int
    guidance: Guidance
    solver: Solver


class Drawn(NamedTuple):
    """Ids [B, L], their vectors [B, L, C] as they go to the decoder, the student's logits if any.

    Ids of -1 and vectors that are not a number mark log-probabilities that are not a number.
    """

    ids_BL: jax.Array
    x_BLC: jax.Array
    logits_BLV: jax.Array | None = None

    def log_probs(self) -> jax.Array:
        """[B, L, V], by the student's logits."""
        return jax.nn.log_softmax(self.logits_BLV.astype(jnp.float32), axis=-1)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of images to be drawn.

    Attributes:
      models: what they are drawn with.
      settings: likewise.
      eps_BLC: their noise.
      condition: pytree with leading axis B.
      bucket_B: which marginal they take, where one is conditioned.
      keys_B: a key for each image, for what is drawn beside the noise.
      prefix_BP: ids of whole groups to start from; [B, 0] for none.
    """

    models: Models
    settings: Settings
    eps_BLC: jax.Array
    condition: Any
    bucket_B: jax.Array
    keys_B: jax.Array
    prefix_BP: jax.Array

    @property
    def teacher(self) -> Guided:
        """The teacher as it is sampled from."""
        return Guided(self.models.teacher, self.settings.guidance)

    @property
    def codes_VC(self) -> jax.Array:
        """The codebook [V, C]."""
        return self.models.tokenizer.codebook

    @property
    def first_group(self) -> int:
        """The group behind the prefix."""
        return self.models.groups.before(self.prefix_BP.shape[1])

    def coded(self, ids_BL: jax.Array) -> Drawn:
        """Ids with their codes."""
        return Drawn(ids_BL, coded(ids_BL, self.codes_VC))

    def student(self, steps: tuple[int, ...], prefix_BP: jax.Array | None = None) -> Drawn:
        """`student_sample` behind a prefix, the batch's own by default."""
        prefix_BP = self.prefix_BP if prefix_BP is None else prefix_BP
        room = self.eps_BLC.shape[1] - prefix_BP.shape[1]
        return student_sample(
            self.models.student, self.codes_VC, self.eps_BLC, self.condition, steps=steps,
            split=self.settings.split, start=self.coded(jnp.pad(prefix_BP, ((0, 0), (0, room)))),
        )


def coded(ids: jax.Array, codes_VC: jax.Array) -> jax.Array:
    """Codes [..., C] of ids [...]; not a number for ids of -1."""
    return jnp.where(ids[..., None] < 0, jnp.nan, codes_VC[ids])


def student_sample(
    student: Student,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    *,
    steps: tuple[int, ...],
    split: int,
    start: Drawn | None = None,
) -> Drawn:
    """Sample with the student: for each k predict X_G from X_k, always with the same noise.

    Args:
      student: predicts logits and vectors from X_k.
      codes_VC: the codebook.
      eps_BLC: the noise.
      condition: pytree with leading axis B.
      steps: values of k, in order; (0,) is one step.
      split: the first `split` groups are read from the logits, the rest are vectors.
      start: the groups before the first of `steps` are taken from it, and stay.

    Returns:
      Ids, vectors and the logits of the last pass. The id of a vector is that of the nearest code.
    """
    groups, batch = student.groups, eps_BLC.shape[0]
    if start is None:
        start = Drawn(jnp.zeros((batch, groups.length), jnp.int32), eps_BLC)
    ids_BL, x_BLC, logits = start
    split_at = int(groups.starts[split])
    for k in steps:
        logits, vectors = student(trajectory.x_at(k, x_BLC, eps_BLC, groups), k, condition)
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        x = jnp.concatenate([codes_VC[best[:, :split_at]], vectors[:, split_at:]], axis=1)
        x_BLC = trajectory.x_at(k, x_BLC, x, groups)
        is_data = jnp.broadcast_to(groups.is_data(k), best.shape)
        ids_BL = jnp.where(is_data, ids_BL, best)
    if split_at < groups.length:
        nearest = nearest_ids(x_BLC[:, split_at:], codes_VC)
        given = jnp.broadcast_to(groups.is_data(steps[0]), ids_BL.shape)[:, split_at:]
        nearest = jnp.where(given, start.ids_BL[:, split_at:], nearest)
        ids_BL = jnp.concatenate([ids_BL[:, :split_at], nearest], axis=1)
    return Drawn(ids_BL, x_BLC, logits)


def self_refined(
    student: RefiningStudent,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    passes: int,
) -> Drawn:
    """Draw with a refining student, each pass from the noise and the codes of the pass before.

    Args:
      student: that draws.
      codes_VC: the codebook.
      eps_BLC: the noise.
      condition: pytree with leading axis B.
      passes: of the student, at least 1.

    Raises:
      UserError: the student is no refining one.
    """
    if not hasattr(student, "refined"):
        raise UserError(
            f"{type(student).__name__} cannot refine its own images; train a refining student, "
            "such as student.kind llamagen_refining_student"
        )

    def one(last_BLC: jax.Array, _: None) -> tuple[jax.Array, None]:
        return best(last_BLC)[1], None

    def best(last_BLC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, _ = student.refined(eps_BLC, last_BLC, condition)
        ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return ids, codes_VC[ids], logits

    last = jax.lax.scan(one, jnp.zeros_like(eps_BLC), length=passes - 1)[0]
    return Drawn(*best(last))


# Pixels of an image.
_LARGE = 128**2


def decode(tokenizer: Tokenizer, x_BLC: jax.Array) -> jax.Array:
    """Images [B, H, W, channels] of a device's share of code vectors.

    On a CPU large ones one after another: what the convolutions of several at once read does not
    stay in its caches.
    """
    _, height, width, _ = jax.eval_shape(tokenizer.decode, x_BLC[:1]).shape
    if height * width < _LARGE or not platform.is_cpu():
        return tokenizer.decode(x_BLC)
    return jax.lax.map(lambda x_LC: tokenizer.decode(x_LC[None])[0], x_BLC)


class Images(NamedTuple):
    """What `draw_images` was asked for, by field; None elsewhere.

    Attributes:
      images: [B, H, W, channels], in about [-1, 1].
      ids: [B, L].
      vectors: [B, L, C], what is decoded.
      log_probs: [B, L, V], what the ids were chosen from; see `Way.log_probs`.
    """

    images: jax.Array | None = None
    ids: jax.Array | None = None
    vectors: jax.Array | None = None
    log_probs: jax.Array | None = None


@functools.partial(jax.jit, static_argnames=("way", "settings", "want"))
def draw_images(
    models: Models,
    key: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    bucket_B: jax.Array,
    index_B: jax.Array,
    prefix_BP: jax.Array,
    *,
    way: Any,
    settings: Settings,
    want: tuple[str, ...] = ("images", "ids"),
) -> Images:
    """Draw a batch; every device its share of the rows.

    Args:
      models: what the way reads, and the tokenizer.
      key: for what is drawn beside the noise; each image has its own of it, by its number.
      eps_BLC: noise.
      condition: pytree with leading axis B.
      bucket_B: see `Batch`.
      index_B: numbers of the images.
      prefix_BP: see `Batch`.
      way: one of `ddjax.method.ways`.
      settings: the numbers behind it.
      want: fields of `Images`; what is not wanted is not computed.
    """

    def share(models: Models, key: jax.Array, *rows: Any) -> Images:
        eps_BLC, condition, bucket_B, index_B, prefix_BP = rows
        batch = Batch(
            models, settings, eps_BLC, condition, bucket_B, per_image(key, index_B), prefix_BP
        )
        drawn = way.draw(batch)
        made = {
            "images": lambda: decode(models.tokenizer, drawn.x_BLC),
            "ids": lambda: drawn.ids_BL,
            "vectors": lambda: drawn.x_BLC,
            "log_probs": lambda: way.log_probs(batch, drawn),
        }
        return Images(**{name: made[name]() for name in want})

    rows = (eps_BLC, condition, bucket_B, index_B, prefix_BP)
    return sharding.per_device(share, replicated=2)(models, key, *rows)


def check_finite(name: str, made: jax.Array | np.ndarray, first: int) -> None:
    """Refuse what comes of images that are not finite.

    Args:
      name: of the way that made them.
      made: the images, or what a net made of them; [N, ...].
      first: number of the first.

    Raises:
      UserError: names the way and the image.
    """
    bad = ~np.isfinite(made).reshape(len(made), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{name}: image {first + int(bad.argmax())} is not finite; look at the weights "
            "of the models that it is drawn with, or compute in float32"
        )
