"""Protocols: what the method reads of teachers, students, tokenizers and feature nets.

A family of models that satisfies these works in every stage; nothing outside its own files has to
know it. Arrays are called by their axes: B batch, L tokens of an image, P tokens of a prefix, S
tokens of a group, V codes, C width of a code. A condition is a pytree whose leaves have a leading
axis B, such as labels [B] int32; only the model that reads it looks inside.
"""

from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import jax
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.method.token_maps import TokenMaps
from ddjax.runtime.layout import ParameterLayout


@runtime_checkable
class TokenizerSizes(Protocol):
    """The config of a tokenizer: a frozen dataclass of sizes.

    Raises ValueError when it is made of sizes that no model can have.

    Attributes:
      vocab_size: V, number of codes.
      code_dim: C, width of a code.
      image_channels: 1 or 3.
      token_maps: how the L tokens lie in the image.
    """

    vocab_size: int
    code_dim: int
    image_channels: int
    token_maps: TokenMaps


@runtime_checkable
class TeacherSizes(Protocol):
    """The config of a teacher, and of the students that start from it; see `TokenizerSizes`.

    Attributes:
      vocab_size: V, the tokenizer's.
      code_dim: C, the tokenizer's.
      num_classes: labels are below it; 0 where the condition is no label.
      token_maps: the tokenizer's.
      groups: how the L tokens are cut into what is predicted at once.
    """

    vocab_size: int
    code_dim: int
    num_classes: int
    token_maps: TokenMaps
    groups: Groups


class Network(Protocol):
    """What all models have in common.

    `Class(config, rngs=nnx.Rngs(0))` makes one with random weights. It is a pytree of float32
    arrays, and its methods are pure functions of them and of the arguments, for use under
    `jax.jit`. They check no values: NaN in, NaN out, and whoever reads the output looks for it.

    Attributes:
      Config: the class of `config`, by which configs and model folders are read.
      config: the sizes; the class, these and the arrays make the same model again.
      layout: which parameters decay in training, and how they are cut over devices.
      published: how a folder of published weights is made (`ddjax.models.published`), or None.
    """

    Config: ClassVar[type]
    config: Any
    layout: ClassVar[ParameterLayout]
    published: ClassVar[Any]


@runtime_checkable
class Teacher(Network, Protocol):
    """An AR image model: it predicts the tokens of a group at once, given all earlier groups.

    There are two ways to the same logits, up to rounding: `logits` for all groups of given ids in
    one pass, and `prefill`, then `step` after `step`. Ids are int32 in 0..V-1; logits are float32
    and not normalised. Guidance, temperature and truncation are applied outside
    (`ddjax.method.guidance`).

    Attributes:
      config: as `TeacherSizes`.
    """

    @property
    def groups(self) -> Groups:
        """How the L tokens are cut into groups; the config's."""

    @classmethod
    def from_tokenizer(cls, config: Any, tokenizer: "Tokenizer", *, rngs: nnx.Rngs) -> Self:
        """A teacher with random weights, and copies of what it needs of the tokenizer.

        Args:
          config: the sizes.
          tokenizer: whose ids it will predict; of the same V, C and token maps.
          rngs: of the random weights.
        """

    def null(self, condition: Any) -> Any:
        """The null condition, for guidance, in the structure and the shapes of `condition`."""

    def logits(self, ids_BL: jax.Array, condition: Any) -> jax.Array:
        """Teacher forcing: [B, L, V], each token given the groups before its own.

        The logits of a group do not depend on its own ids, nor on later ones.
        """

    def prefill(self, condition: Any, ids_BP: jax.Array) -> tuple[jax.Array, Any]:
        """Read the condition and the ids of the first n groups, 0 <= n < G.

        Args:
          condition: of each image.
          ids_BP: all of the n groups; [B, 0] for none.

        Returns:
          logits [B, size of group n, V] of group n, and a cache for `step`: a pytree that only the
          teacher reads.
        """

    def step(self, ids_BS: jax.Array, group: int | jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        """Append the ids of a group.

        Args:
          ids_BS: of the group whose logits came last.
          group: its index, 0 <= group < G - 1. An array only within a `jax.lax.scan` over groups of
            one size; there the cache keeps its structure and shapes.
          cache: as `prefill` or the last `step` returned it.

        Returns:
          logits [B, size of group + 1, V] of the next group, and the cache behind this one.
        """


@runtime_checkable
class Student(Network, Protocol):
    """A network of one pass: from X_k, data in the first k groups and noise behind, to X_G.

    Attributes:
      config: the teacher's.
    """

    @property
    def groups(self) -> Groups:
        """The teacher's."""

    @classmethod
    def from_teacher(cls, teacher: Teacher, *, rngs: nnx.Rngs) -> Self:
        """A student that starts from copies of the teacher's weights.

        Args:
          teacher: of the family that the student belongs to.
          rngs: of the weights that the teacher does not have.
        """

    def __call__(
        self, x_BLC: jax.Array, k: int | jax.Array, condition: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Predict every token at its own position, from the groups before its own and itself.

        Args:
          x_BLC: code vectors in the first k groups, noise behind.
          k: a number, or one for each image, [B].
          condition: as the teacher's.

        Returns:
          logits [B, L, V] and vectors [B, L, C], float32; where x is data they mean nothing.
        """


@runtime_checkable
class RefiningStudent(Student, Protocol):
    """A student that can draw an image anew from its noise and its own last codes."""

    def refined(
        self, x_BLC: jax.Array, last_BLC: jax.Array, condition: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Predict X_G once more.

        Args:
          x_BLC: noise, of all groups.
          last_BLC: codes of the pass before, of which a position reads those before its group, and
            its own; 0 where there was none, and then this is `__call__` at k = 0.
          condition: as the teacher's.

        Returns:
          logits [B, L, V] and vectors [B, L, C], float32.
        """


class Autoencoded(NamedTuple):
    """Images through a tokenizer and back, as its training reads them.

    Attributes:
      image: [B, H, W, channels], not clamped; its gradient passes straight through the choice of
        codes to the encoder.
      features_BLC: vectors before quantisation.
      ids_BL: of the codes nearest to them.
      codebook: squared distance of features and codes, with a gradient for the codes.
      commitment: the same, with a gradient for the features.
    """

    image: jax.Array
    features_BLC: jax.Array
    ids_BL: jax.Array
    codebook: jax.Array
    commitment: jax.Array


@runtime_checkable
class Tokenizer(Network, Protocol):
    """A VQ model: images [B, H, W, channels] in [-1, 1] <-> ids [B, L] of codes.

    Attributes:
      config: as `TokenizerSizes`.
    """

    @property
    def codebook(self) -> jax.Array:
        """The codes [V, C], float32, as `decode` takes them."""

    def features(self, images: jax.Array) -> jax.Array:
        """Vectors [B, L, C] before quantisation."""

    def encode(self, images: jax.Array) -> jax.Array:
        """Ids [B, L], int32: the codes nearest to `features`."""

    def decode(self, x_BLC: jax.Array) -> jax.Array:
        """Images [B, H, W, channels], about in [-1, 1], of codes or of any other vectors."""

    def autoencode(self, images: jax.Array) -> Autoencoded:
        """Images through ids and back, with what its training needs."""

    def with_codes(self, codes_VC: jax.Array) -> Self:
        """The same tokenizer with another codebook."""


@runtime_checkable
class TextEncoder(Network, Protocol):
    """A frozen encoder of captions."""

    def embed_text(self, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
        """Features [B, T, E], float32, of token ids; `mask_BT` says which are the caption's."""


class Features(NamedTuple):
    """What a net measures of images, float32; B images.

    Attributes:
      pooled_BF: features that distances between sets of images are computed of.
      spatial_BS: features that keep positions, for sFID; None where the net has none.
      logits_BK: of K classes of the net's own, for the Inception score; None where it has none.
    """

    pooled_BF: jax.Array
    spatial_BS: jax.Array | None = None
    logits_BK: jax.Array | None = None


@runtime_checkable
class ImageTextNet(Network, Protocol):
    """A frozen net with one space for images and texts, in which what goes together is near."""

    def embed_images(self, images: jax.Array) -> jax.Array:
        """Unit vectors [B, E], float32, of images [B, H, W, 3] in [-1, 1]."""

    def embed_texts(self, ids_BT: jax.Array) -> jax.Array:
        """Unit vectors [B, E], float32, of token ids, int32, whose ends and padding are its own."""


@runtime_checkable
class FeatureNet(Network, Protocol):
    """A net that compares images [B, H, W, channels] in [-1, 1].

    Attributes:
      num_classes: how many classes it tells apart; 0 for none.
    """

    num_classes: int

    def features(self, images: jax.Array) -> jax.Array:
        """Features [B, F], float32, for distances between sets of images."""

    def measure(self, images: jax.Array) -> Features:
        """All that metrics of sets of images read, in one pass; `features` are its pooled ones."""

    def distance(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Perceptual distance [B], float32, between images one by one; 0 where they are equal."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, num_classes] of the classes."""
