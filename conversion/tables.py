"""Conversion tables: rules from PyTorch's names to ours, as data; see `conversion.follow`."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddjax.runtime.errors import UserError

Array = np.ndarray
Shapes = Mapping[str, tuple[int, ...]]


class Transform(NamedTuple):
    """A change of layout and its inverse, both of single tensors.

    Attributes:
      forward: from PyTorch's layout to ours.
      inverse: and back.
      part: which of `parts` equal pieces, cut along its first axis, of the PyTorch tensor is meant.
      parts: number of pieces; each piece needs a rule of its own.
    """

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    part: int = 0
    parts: int = 1

    def of(self, part: int, parts: int) -> "Transform":
        """The same for one piece of a fused tensor, such as q, k and v in one."""
        return self._replace(part=part, parts=parts)


IDENTITY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(np.transpose, np.transpose)
"""A matrix [out, in] <-> [in, out]."""
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""A kernel [out, in, height, width] <-> [height, width, in, out]."""


class Rule(NamedTuple):
    r"""Where the tensors of a pattern of names go.

    Attributes:
      pattern: regex that matches a whole name. A group `(?P<layer>\d+)` is the index on the
        leading axis of a stacked target; the other groups must not nest.
      target: our name; {0}, {1} stand for the other groups, in their order.
      transform: between the layouts.
    """

    pattern: str
    target: str
    transform: Transform = IDENTITY


@dataclasses.dataclass(frozen=True)
class Table:
    """How the checkpoints of one kind of model convert.

    Attributes:
      kind: of `ddjax.models.MODELS`.
      rules: for every tensor that is a weight.
      ignored: patterns of names that may be there and are no weights.
      config: the model's sizes, from the shapes; further keywords are sizes that a user may set
        because the shapes do not tell.
      places: where the published files have the weights: keys of the dictionaries around them,
        outermost first.
      buffers: what the original code wants beside the weights, by name.
      borrowed: pattern of names from another model's checkpoint; the way back leaves them out.
      aliases: further names of tensors, with the name that the rules know.
      invertible: whether the weights that we keep are all that the original code wants.
    """

    kind: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...]
    config: Callable[..., Any]
    places: tuple[tuple[str, ...], ...] = (("model",),)
    buffers: Callable[[Any], dict[str, Array]] = lambda config: {}
    borrowed: str = ""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    invertible: bool = True


def size(shapes: Shapes, name: str, axis: int) -> int:
    """The length of an axis of a source tensor.

    Raises:
      UserError: there is no such tensor, or no such axis.
    """
    if name not in shapes:
        raise UserError(f"{name} is missing")
    if axis >= len(shapes[name]):
        raise UserError(f"{name} is {list(shapes[name])}, too few axes")
    return shapes[name][axis]


def count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers the group of a pattern has among the names it matches.

    Raises:
      UserError: it matches none.
    """
    matches = (re.fullmatch(pattern, name) for name in shapes)
    numbers = {match[1] for match in matches if match}
    if not numbers:
        raise UserError(f"no name is like {pattern}")
    return len(numbers)
