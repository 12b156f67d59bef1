"""Results of a study: what its workdirs hold, as numbers, a table and JSON."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.ablate.study import Study
from ddjax.ablate.variants import Variant
from ddjax.evaluation.plots import VALIDATED
from ddjax.storage import files
from ddjax.training import validation

# Columns, where metrics.json has them; those with digits as they are shown.
COLUMNS = {
    "fid": ("FID", 2), "inception_score": ("IS", 1), "fd_data": ("FD to data", 2),
    "fd_teacher": ("FD to teacher", 2), "precision": ("precision", 3), "recall": ("recall", 3),
    "class_accuracy": ("class accuracy", 3), "tokens_equal": ("tokens equal", 3),
}

NOTES = """\
{figure}.
The seed of a student decides the order of its pairs and the steps k that it learns them at, the
initial weights of what the teacher does not have, and the noise that it is judged by. Tokenizer,
teacher, pairs and feature net are the same for all seeds, and for all variants whose value does not
change them. The curves are of one-step samples of held-out noise, {samples} each, by the averaged
weights; the table is of the students at the end, by the stage evaluate.

![quality over the steps of training](curves.png)"""

NOTES_WITHOUT_STUDENTS = """\
{figure}.
A seed decides the noise that is drawn from; tokenizer, teacher and feature net are the same for all
seeds, and for all variants whose value does not change them. No method of these reads a student, so
none was trained.

![quality over the values](values.png)"""


def collect(study: Study, root: Path) -> dict[str, Any]:
    """All numbers of a finished study, by ablation and value.

    Returns:
      "name", "seeds", "samples", and "ablations": of each "key" and "values", of which each has
      "value"; "curve", by name the list [points, seeds], None without students; and "rows", with a
      list [seeds] by metric.

    Raises:
      UserError: a file of a workdir is damaged.
    """
    keys = dict.fromkeys(variant.key for variant in study.variants)
    return {
        "name": study.base.name,
        "seeds": study.seeds,
        "samples": study.variants[0].config.distill.validate_samples,
        "ablations": [
            {"key": key,
             "values": [_of_variant(study, root, v) for v in study.variants if v.key == key]}
            for key in keys
        ],
    }


def _of_variant(study: Study, root: Path, variant: Variant) -> dict[str, Any]:
    workdirs = [workdir for _, workdir in study.runs(root, variant)]
    tables = [files.read_json(workdir / "metrics.json")["rows"] for workdir in workdirs]
    methods = variant.config.evaluate.methods
    return {"value": variant.value, "curve": _curve(workdirs) if study.has_students else None,
            "rows": [_of_method(name, tables) for name in methods]}


def _curve(workdirs: list[Path]) -> dict[str, list]:
    curves = [validation.read(workdir / "distill")["rows"] for workdir in workdirs]
    points = {name: [[row[name] for row in rows] for rows in zip(*curves, strict=True)]
              for name in VALIDATED}
    return {"step": [row["step"] for row in curves[0]], **points}


def _of_method(method: str, tables: list[list[dict[str, Any]]]) -> dict[str, Any]:
    rows = [row for table in tables for row in table if row["method"] == method]
    values = {name: [row.get(name) for row in rows] for name in COLUMNS}
    return {"method": method, **{k: v for k, v in values.items() if None not in v}}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds; None of one."""
    values = np.asarray(list(values), np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def has_curves(results: dict[str, Any]) -> bool:
    """Whether students were trained."""
    return results["ablations"][0]["values"][0]["curve"] is not None


def table(ablation: dict[str, Any]) -> str:
    """The values of a key in a Markdown table."""
    rows = [(one["value"], row) for one in ablation["values"] for row in one["rows"]]
    shown = [name for name in COLUMNS if any(name in row for _, row in rows)]
    titles = [COLUMNS[name][0] for name in shown]
    return "\n".join([
        f"| {ablation['key']} | method | " + " | ".join(titles) + " |",
        "| --- | --- |" + " ---: |" * len(shown),
        *(f"| {value} | {row['method']} | "
          + " | ".join(_cell(row.get(name), COLUMNS[name][1]) for name in shown) + " |"
          for value, row in rows),
    ])


def _cell(values: list[float] | None, digits: int) -> str:
    if values is None:
        return ""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _about_figures(results: dict[str, Any]) -> str:
    seeds, trained = results["seeds"], has_curves(results)
    if seeds == 1:
        return f"A figure is of {'the student of ' * trained}one seed; more --seeds give deviations"
    over = f"{'students of ' * trained}{seeds} seeds"
    return f"A figure is the mean over {over} ± their standard deviation"


def write(root: Path, results: dict[str, Any], command: str) -> str:
    """Write ablation.md and ablation.json into the workdir; returns the tables.

    Args:
      root: the workdir.
      results: of `collect`.
      command: that made them.
    """
    tables = "\n\n".join(map(table, results["ablations"]))
    notes = NOTES if has_curves(results) else NOTES_WITHOUT_STUDENTS
    about = notes.format(figure=_about_figures(results), samples=results["samples"])
    text = f"# Ablations of {results['name']}\n\n`{command}`\n\n{tables}\n\n{about}\n"
    files.write_json(root / "ablation.json", results)
    with files.atomic(root / "ablation.md") as temporary:
        temporary.write_text(text)
    return tables
