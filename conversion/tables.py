"""Conversion as data: a table of rules from PyTorch's names to ours, followed in both directions.

A table is planned on shapes alone first, so that whatever does not fit is named before any weight
is touched; then tensors are copied one by one.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddjax.errors import UserError

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
    """

    kind: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...]
    config: Callable[..., Any]
    places: tuple[tuple[str, ...], ...] = (("model",),)
    buffers: Callable[[Any], dict[str, Array]] = lambda config: {}
    borrowed: str = ""


class Move(NamedTuple):
    """One tensor, or a piece of it, on its way: `layer` is None where the target is not stacked."""

    source: str
    target: str
    layer: int | None
    transform: Transform


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


def plan(shapes: Shapes, table: Table, targets: Shapes) -> list[Move]:
    """What goes where: every target exactly once, every source used or on the ignored list.

    Args:
      shapes: of the source.
      table: of its kind.
      targets: shapes of our arrays.

    Raises:
      UserError: names all that does not fit.
    """
    moves, problems = [], []
    for name in shapes:
        found = [move for rule in table.rules if (move := _move(rule, name))]
        if not found and not any(re.fullmatch(p, name) for p in table.ignored):
            problems.append(f"{name} is not known")
        moves += found
    problems += _misfits(moves, shapes, targets) + _unfilled(moves, targets)
    if problems:
        raise UserError(_list(problems))
    return moves


def _move(rule: Rule, name: str) -> Move | None:
    match = re.fullmatch(rule.pattern, name)
    if match is None:
        return None
    layer = match.groupdict().get("layer")
    others = [text for i, text in enumerate(match.groups(), 1) if i != _layer_group(match.re)]
    target = rule.target.format(*others)
    return Move(name, target, None if layer is None else int(layer), rule.transform)


def _layer_group(pattern: re.Pattern) -> int | None:
    return pattern.groupindex.get("layer")


def _misfits(moves: list[Move], shapes: Shapes, targets: Shapes) -> list[str]:
    problems = []
    for move in moves:
        if move.target not in targets:
            problems.append(f"{move.source} has no place in a model of these sizes")
            continue
        wanted = _source_shape(targets[move.target], move)
        if shapes[move.source] != wanted:
            problems.append(f"{move.source} is {list(shapes[move.source])}, not {list(wanted)}")
    return problems


def _source_shape(target: tuple[int, ...], move: Move) -> tuple[int, ...]:
    # A view of a single zero has any shape and takes no memory.
    zeros = np.broadcast_to(np.float32(0), target if move.layer is None else target[1:])
    shape = move.transform.inverse(zeros).shape
    return (shape[0] * move.transform.parts, *shape[1:])


def _unfilled(moves: list[Move], targets: Shapes) -> list[str]:
    filled = collections.Counter((move.target, move.layer) for move in moves)
    stacked = {move.target for move in moves if move.layer is not None}
    wanted = collections.Counter(
        (name, layer)
        for name, shape in targets.items()
        for layer in (range(shape[0]) if name in stacked else [None])
    )
    surplus = [slot for slot in filled - wanted if slot[0] in targets]
    return [f"nothing fills {_slot(*slot)}" for slot in wanted - filled] + [
        f"{_slot(*slot)} is filled twice, or is not there" for slot in surplus
    ]


def _slot(target: str, layer: int | None) -> str:
    return target if layer is None else f"{target} of layer {layer}"


def _list(problems: list[str], shown: int = 12) -> str:
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return "; ".join(problems[:shown]) + more


def fill(
    moves: Iterable[Move], source: Callable[[str], Array], targets: Shapes
) -> dict[str, Array]:
    """Our arrays, float32, of the shapes `targets`, from tensors that are read one by one.

    Raises:
      UserError: NaN or infinity in a tensor.
    """
    arrays = {name: np.empty(shape, np.float32) for name, shape in targets.items()}
    for move in moves:
        tensor = source(move.source)
        # A sum is finite only if all its terms are, and takes no memory.
        if not np.isfinite(tensor.sum(dtype=np.float64)):
            raise UserError(f"{move.source} holds NaN or infinity; get or train the file anew")
        piece = np.split(tensor, move.transform.parts)[move.transform.part]
        place = ... if move.layer is None else move.layer
        arrays[move.target][place] = move.transform.forward(piece)
    return arrays


def invert(arrays: Mapping[str, Array], table: Table) -> dict[str, Array]:
    """PyTorch's tensors from ours, in the order of the rules: the inverse of `fill`."""
    pieces: dict[str, dict[int, Array]] = {}
    for rule in table.rules:
        pattern = _target_pattern(rule)
        for name, array in arrays.items():
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            stacked = "(?P<layer>" in rule.pattern
            for layer, single in enumerate(array) if stacked else [(0, array)]:
                source = _source_name(rule, match, layer)
                tensor = np.ascontiguousarray(rule.transform.inverse(single))
                pieces.setdefault(source, {})[rule.transform.part] = tensor
    return {
        name: found[0] if len(found) == 1 else np.concatenate([found[i] for i in sorted(found)])
        for name, found in pieces.items()
    }


_GROUP = re.compile(r"\((?!\?P<layer>)([^()]*)\)")
_LAYER = re.compile(r"\(\?P<layer>[^()]*\)")


def _target_pattern(rule: Rule) -> str:
    """A regex over our names, with a group for each {i} of the target."""
    groups = _GROUP.findall(rule.pattern)
    named = [f"(?P<g{i}>{group})" for i, group in enumerate(groups)]
    return rule.target.format(*named)


def _source_name(rule: Rule, match: re.Match, layer: int) -> str:
    numbered = iter(range(len(match.groups())))
    name = _GROUP.sub(lambda _: match[f"g{next(numbered)}"], _LAYER.sub(str(layer), rule.pattern))
    return name.replace("\\.", ".")
