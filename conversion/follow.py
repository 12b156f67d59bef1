"""Conversion by a table of names, in both directions.

It is planned on shapes alone first, so that whatever does not fit is named before any weight is
read; then tensors are copied one by one.
"""

import collections
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from conversion.tables import Array, Rule, Shapes, Table, Transform
from ddjax.runtime import progress
from ddjax.runtime.errors import UserError


class Move(NamedTuple):
    """One tensor, or a piece of it, on its way: `layer` is None where the target is not stacked."""

    source: str
    target: str
    layer: int | None
    transform: Transform


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
    match = re.fullmatch(rule.pattern, name, re.ASCII)
    if match is None:
        return None
    named = match.re.groupindex.values()
    others = [text for i, text in enumerate(match.groups(), 1) if i not in named]
    layer = int(match["layer"]) if named else None
    return Move(name, rule.target.format(*others), layer, rule.transform)


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
    return (shape[0] * move.transform.parts, *shape[1:]) if shape else shape


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
) -> Iterator[Array]:
    """Our arrays, float32, in the order of `targets`, made one by one under a progress bar.

    Raises:
      UserError: NaN or infinity in a tensor.
    """
    by_target = collections.defaultdict(list)
    for move in moves:
        by_target[move.target].append(move)
    # No name holds an array here, nor does the bar, while the next is made.
    for name, shape in progress.bar(targets.items(), "convert", len(targets)):
        yield _filled(shape, by_target[name], source)


def _filled(
    shape: tuple[int, ...], moves: Iterable[Move], source: Callable[[str], Array]
) -> Array:
    array = np.empty(shape, np.float32)
    for move in moves:
        place = ... if move.layer is None else move.layer
        array[place] = _piece(move, source(move.source))
    return array


def _piece(move: Move, tensor: Array) -> Array:
    # A sum is finite only if all its terms are, and takes no memory.
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(tensor.sum(dtype=np.float64))
    if not finite:
        raise UserError(f"{move.source} holds NaN or infinity; get or train the file again")
    pieces = np.split(tensor, move.transform.parts) if tensor.shape else [tensor]
    return move.transform.forward(pieces[move.transform.part])


def invert(arrays: dict[str, Array], table: Table) -> dict[str, Array]:
    """PyTorch's tensors from ours, in the order of the rules: the inverse of `fill`.

    Takes each array out of `arrays` as it goes, so that no more than one is held twice.
    """
    pieces: dict[str, dict[int, Array]] = {}
    for rule in table.rules:
        pattern = _target_pattern(rule)
        for match in [found for name in arrays if (found := re.fullmatch(pattern, name))]:
            for source, tensor in _singles(rule, match, arrays.pop(match.string)):
                pieces.setdefault(source, {})[rule.transform.part] = tensor
    return {name: _joined(pieces.pop(name)) for name in list(pieces)}


def _singles(rule: Rule, match: re.Match, array: Array) -> Iterator[tuple[str, Array]]:
    """The PyTorch tensors, or pieces of them, in an array; of each layer where it is stacked."""
    stacked = "(?P<layer>" in rule.pattern
    for layer, single in enumerate(array) if stacked else [(0, array)]:
        # A copy: a part of a stacked array would keep the whole.
        tensor = rule.transform.inverse(single).copy(order="C")
        yield _source_name(rule, match, layer), tensor


def _joined(pieces: dict[int, Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else np.concatenate([pieces[i] for i in sorted(pieces)])


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
