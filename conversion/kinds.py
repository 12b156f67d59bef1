"""Kind of a checkpoint, guessed by the names of its tensors."""

import re
from collections.abc import Iterable, Sequence

from conversion.tables import Table

# Below this share of names in common, a file is of no kind that is known.
_ENOUGH = 0.5


def likeliest(names: Sequence[str], tables: Iterable[Table]) -> str | None:
    """The kind that has most names in common with these; None where none has enough."""
    likeness = {table.kind: _likeness(names, table) for table in tables}
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] > _ENOUGH else None


def _likeness(names: Sequence[str], table: Table) -> float:
    """How many names the rules know, of all names and of all rules that find none."""
    weights = [name for name in names if not any(re.fullmatch(p, name) for p in table.ignored)]
    patterns = {rule.pattern for rule in table.rules}
    known, used = set(), set()
    for pattern in patterns:
        found = {name for name in weights if re.fullmatch(pattern, name)}
        known |= found
        used |= {pattern} if found else set()
    return len(known) / (len(weights) + len(patterns - used))
