"""Report of a run: report.md and metrics.json, and how to read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddjax.config.schema import NO_DATA, SHAPES, Config
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import METRICS
from ddjax.evaluation.network import Network
from ddjax.evaluation.pictures import Picture
from ddjax.evaluation.reference import Reference, among
from ddjax.runtime import sharding
from ddjax.storage import files


def about(config: Config, measure: Measure, reference: Reference) -> dict[str, Any]:
    """How the figures are made, for metrics.json and the report."""
    section, network = config.evaluate, measure.network
    made_by = f"of {section.features.weights}" if section.features.weights else (
        f"trained on {config.data.name}"
    )
    proxy = "" if network.is_inception else "; not Inception, so the distances are not FID"
    return {
        "features": f"last layer ({measure.width} wide) of a {network.kind} {made_by}{proxy}",
        "network": {**network._asdict(), "width": measure.width},
        "samples": section.samples,
        "sets": section.sets,
        "labels": section.labels,
        "reference": {
            "name": reference.name or "none", "count": reference.count,
            "for_precision_recall":
            None if reference.features_NF is None else len(reference.features_NF),
        },
        "devices": sharding.devices(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of metrics.json as a Markdown table; means, with deviations where there are any.

    Columns that no row has are left out.
    """
    shown = [
        metric for metric in METRICS if any(row[metric.name] is not None for row in rows)
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


def _about_labels(metrics: dict[str, Any]) -> str:
    return {
        "in_turn": "Conditions are taken in turn, as many images of each as there can be.",
        "random": "The condition of each image is drawn at random.",
    }[metrics["labels"]]


def _about_features(metrics: dict[str, Any]) -> list[str]:
    network = Network(**{name: metrics["network"][name] for name in Network._fields})
    if network.is_inception:
        few = metrics["samples"] <= metrics["network"]["width"]
        lines = [
            f"FID, sFID, IS, precision and recall are by Inception, weights {network.digest[:12]}, "
            f"images brought to its size by {network.resize}. IS is in ten splits, without the "
            "bias of the last layer. FD to teacher is a Fréchet distance in the same features.",
            "Of fewer than 10,000 samples FID comes out too large." * (metrics["samples"] < 10_000),
            "There are fewer samples than features: covariances are singular, and distances "
            "show the number of samples more than their quality." * few,
        ]
    else:
        lines = [
            f"FD is the Fréchet distance in these features: {metrics['features']}. The fewer the "
            "samples, the larger it comes out: compare within this table alone."
        ]
    return [
        *filter(None, lines),
        "Images are rounded to 8 bits before they are measured, as they would be in a file.",
    ]


def _about_reference(metrics: dict[str, Any], config: Config) -> list[str]:
    reference = metrics["reference"]
    if reference["name"] == "none":
        return ["There are no data to compare with: figures about data are left out."]
    count = "an unknown number of" if reference["count"] is None else f"{reference['count']:,}"
    lines = [f"Samples are compared with {reference['name']}: {count} images."]
    network = Network(**{name: metrics["network"][name] for name in Network._fields})
    if (images := reference["for_precision_recall"]) is not None:
        compared = among(network).samples
        samples = "all" if compared is None else f"at most {compared:,}"
        lines.append(
            f"precision and recall are against {images:,} images of it, with {samples} samples of "
            f"a set ({config.evaluate.neighbours} neighbours)."
        )
    if config.data.name != NO_DATA:
        lines.append("data_floor compares one half of the data with the other.")
    if copies := config.data.copies - 1:
        lines.append(f"The data are the images and {copies} jittered copies of each.")
    return [" ".join(lines)]


def _about_measuring(metrics: dict[str, Any]) -> list[str]:
    share = metrics["measuring_share"].get("student_1step")
    if share is None:
        return []
    return [
        f"Of the time that evaluating student_1step took, {share:.0%} was not drawing: compiling, "
        "measuring, saving."
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


def _devices(count: int) -> str:
    return "one device" if count == 1 else f"each of {count} devices"


def write(
    root: Path, config: Config, metrics: dict[str, Any], shown: Sequence[Picture]
) -> None:
    """Write both files into the workdir and print the table.

    Args:
      root: the workdir.
      config: of the run.
      metrics: of metrics.json.
      shown: pictures that lie in the workdir, in their order.
    """
    text = "\n".join(
        [
            f"# {config.name}, seed {config.seed}",
            "",
            table(metrics["rows"]),
            "",
            _about_sets(metrics),
            _about_labels(metrics),
            *_about_features(metrics),
            *_about_reference(metrics, config),
            *_about_shapes(config),
            "FD to teacher is the distance to another set of as many samples by teacher_ar, whose "
            "own row is therefore the floor of that column.",
            "tokens equal: share of ids that are those of the teacher's map for the same held-out "
            "noise; of methods that do not read the noise it is the level of chance.",
            "ms / image: noise to pixels in batches of "
            f"{config.evaluate.batch} on {_devices(metrics['devices'])}, steady state, "
            "without compilation; neither measuring nor what the host does is in it.",
            *_about_measuring(metrics),
            "teacher_involved_N_M: the teacher makes groups N to M - 1, counted from 0. skip_N and "
            "onestep_class draw what is missing from the marginals given the class; onestep_all "
            "from those over all images.",
            *(picture.about for picture in shown if picture.about),
            *(f"\n![{picture.title}]({picture.file})" for picture in shown),
            "",
        ]
    )
    files.write_json(root / "metrics.json", metrics)
    with files.atomic(root / "report.md") as temporary:
        temporary.write_text(text)
    print(f"\n{table(metrics['rows'])}\n", flush=True)
