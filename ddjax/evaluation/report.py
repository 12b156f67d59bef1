"""Report of a run: report.md and metrics.json, and how to read them."""

from pathlib import Path
from typing import Any

from ddjax.config.schema import NO_DATA, SHAPES, Config
from ddjax.evaluation.metrics import METRICS
from ddjax.evaluation.reference import MOST_NEIGHBOURS_AMONG
from ddjax.storage import files


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of metrics.json as a Markdown table; means, with deviations where there are any."""
    shown = [
        metric for metric in METRICS
        if not metric.optional or any(row[metric.name] is not None for row in rows)
    ]
    lines = ["| method | " + " | ".join(metric.title for metric in shown) + " |"]
    lines.append("| --- |" + " ---: |" * len(shown))
    for row in rows:
        cells = [metric.cell(row[metric.name], row["deviation"][metric.name]) for metric in shown]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _about_sets(metrics: dict[str, Any]) -> str:
    samples, sets = metrics["samples"], metrics["sets"]
    if sets == 1:
        return f"Each row is one set of {samples} samples; raise evaluate.sets for deviations."
    return (
        f"Each row has {sets} independent sets of {samples} samples; a figure is their mean ± "
        "their standard deviation."
    )


def _about_data(config: Config) -> list[str]:
    if config.data.name == NO_DATA:
        return ["There are no data to compare with: figures about data are left out."]
    copies = config.data.copies - 1
    jittered = f" The data are the images and {copies} jittered copies of each." if copies else ""
    return [
        "data_floor compares one half of the data with the other. precision and recall are against "
        f"the data, at most {MOST_NEIGHBOURS_AMONG} of each "
        f"({config.evaluate.neighbours} neighbours).{jittered}"
    ]


def _about_shapes(config: Config) -> list[str]:
    if config.data.name != SHAPES:
        return []
    return [
        "colour, shape, size, place, all right: share of the pictures that show what the caption "
        "says, read off their pixels by a checker (`ddjax.data.shapes`) that finds everything "
        "right in every picture of the data. held out: captions of which there is no training "
        "picture, one in ten. The text encoder is random and frozen, and its vocabulary is made "
        "from the captions."
    ]


def write(root: Path, config: Config, metrics: dict[str, Any]) -> None:
    """Write both files into the workdir and print the table."""
    text = "\n".join(
        [
            f"# {config.name}, seed {config.seed}",
            "",
            table(metrics["rows"]),
            "",
            _about_sets(metrics),
            f"FD is the Fréchet distance in these features: {metrics['features']}. The fewer the "
            "samples, the larger it comes out: compare within this table alone.",
            *_about_data(config),
            *_about_shapes(config),
            "FD to teacher is the distance to another set of as many samples by teacher_ar, whose "
            "own row is therefore the floor of that column.",
            "tokens equal: share of ids that are those of the teacher's map for the same held-out "
            "noise; of methods that do not read the noise it is the level of chance.",
            "ms / image: noise to pixels in batches of "
            f"{config.evaluate.batch} on each of {metrics['devices']} devices, steady state, "
            "without compilation.",
            "teacher_involved_N_M: the teacher makes groups N to M - 1, counted from 0. skip_N and "
            "onestep_class draw what is missing from the marginals given the class; onestep_all "
            "from those over all images.",
            "",
            "![samples](samples.png)",
            "",
            "![quality against time](tradeoff.png)",
            "",
        ]
    )
    files.write_json(root / "metrics.json", metrics)
    with files.atomic(root / "report.md") as temporary:
        temporary.write_text(text)
    print(f"\n{table(metrics['rows'])}\n", flush=True)
