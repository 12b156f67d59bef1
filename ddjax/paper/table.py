"""The paper's tables with one's own figures in them, as Markdown."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ddjax.paper.figures import SOURCE, TABLES, Published
from ddjax.runtime.errors import UserError
from ddjax.storage import files


class Column(NamedTuple):
    """A figure, by its name in metrics.json.

    Attributes:
      key: the name.
      title: over the column.
      digits: behind the point.
      of_inception: whether it means what the paper's does in Inception's features alone.
    """

    key: str
    title: str
    digits: int
    of_inception: bool = False


COLUMNS = (
    Column("passes", "steps", 0),
    Column("seconds_per_image", "s / image", 3),
    Column("speedup", "speed-up", 1),
    Column("fid", "FID", 2, of_inception=True),
    Column("inception_score", "IS", 1, of_inception=True),
    Column("precision", "precision", 2, of_inception=True),
    Column("recall", "recall", 2, of_inception=True),
)

# Rows of the data, which no network draws.
_OF_DATA = ("data_floor", "reconstruction")


class Ours(NamedTuple):
    """What a workdir's metrics.json says.

    Attributes:
      rows: by method; none where there is no file.
      features: what the net is, in words.
      is_inception: whether figures compare with the paper's.
      samples: images of each row, in words.
    """

    rows: dict[str, dict[str, Any]]
    features: str = ""
    is_inception: bool = False
    samples: str = ""


def read(root: Path) -> Ours:
    """The metrics of a workdir.

    Raises:
      UserError: the file is damaged, or something else.
    """
    path = root / "metrics.json"
    metrics = files.read_json(path, f"move {root / 'evaluate'} and it aside and evaluate again")
    if metrics is None:
        return Ours({})
    try:
        rows = {row["method"]: row for row in metrics["rows"] if row["method"] not in _OF_DATA}
        samples = f"{metrics.get('sets', 1)} x {metrics['samples']}"
    except (KeyError, TypeError):
        raise UserError(f"{path} is not what the stage evaluate writes; give its workdir") from None
    is_inception = any(
        row.get(key) is not None for row in rows.values() for key in ("fid", "inception_score")
    )
    return Ours(rows, str(metrics.get("features", "")), is_inception, samples)


def missing(published: Iterable[Published], ours: Ours) -> list[str]:
    """The methods of published rows that the workdir has not."""
    return [row.method for row in published if row.method not in ours.rows]


def text(published: tuple[Published, ...], ours: Ours) -> str:
    """All tables that have rows, and one of the rows that the paper does not have."""
    parts = []
    for number, title in TABLES.items():
        if rows := [row for row in published if row.table == number]:
            parts.append(f"{title} ({SOURCE})")
            parts.append(_table((row.name, row.method, row, ours) for row in rows))
    known = {row.method for row in published}
    if others := [name for name in ours.rows if name not in known]:
        parts.append("Rows that the paper does not have")
        parts.append(_table(("", name, None, ours) for name in others))
    return "\n\n".join([*parts, *_notes(published, ours)])


def _table(rows: Iterable[tuple[str, str, Published | None, Ours]]) -> str:
    lines = ["| the paper's row | method | " + " | ".join(c.title for c in COLUMNS) + " |",
             "| --- | --- |" + " ---: |" * len(COLUMNS)]
    for name, method, row, ours in rows:
        cells = [cell(column, _figure(column, method, ours), getattr(row, column.key, None))
                 for column in COLUMNS]
        lines.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(column: Column, method: str, ours: Ours) -> float | None:
    """Ours, or None where it is not made or does not compare."""
    if column.of_inception and not ours.is_inception:
        return None
    return ours.rows.get(method, {}).get(column.key)


def cell(column: Column, ours: float | None, paper: float | None) -> str:
    """Ours / the paper's (difference), with a dash where ours is not there."""
    shown = ["" if x is None else f"{x:.{column.digits}f}" for x in (ours, paper)]
    if paper is None:
        return shown[0]
    if ours is None:
        return f"– / {shown[1]}"
    if not column.digits:
        return " / ".join(shown)
    return f"{' / '.join(shown)} ({ours - paper:+.{column.digits}f})"


def _notes(published: tuple[Published, ...], ours: Ours) -> list[str]:
    notes = ["Cells: ours / the paper's (difference). Seconds are from noise to pixels on the "
             "device at hand, and on the authors' GPU."]
    if ours.rows:
        notes.append(f"Ours: {ours.samples} samples a row, features: {ours.features}.")
    if ours.rows and not ours.is_inception:
        notes.append("metrics.json has neither FID nor IS, since its features are not "
                     "Inception's: our FID, IS, precision and recall are left empty.")
    if any(row.table == 2 for row in published):
        notes.append("teacher N-M: the paper counts groups from 1, our names from 0: the teacher "
                     "makes groups N to M - 1 of the paper's.")
    if any(row.name == "onestep*" for row in published):
        notes.append("onestep* draws from marginals over all images; onestep_class, given the "
                     "class, is stronger.")
    return notes
