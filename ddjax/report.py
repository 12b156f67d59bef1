"""report.md and metrics.json: the figures of a run, and how to read them."""

from pathlib import Path
from typing import Any

from ddjax import files
from ddjax.config import NO_DATA, Config

_COLUMNS = {
    "method": ("method", "{}"),
    "fd_data": ("FD to data", "{:.2f}"),
    "fd_teacher": ("FD to teacher", "{:.2f}"),
    "class_accuracy": ("class accuracy", "{:.3f}"),
    "precision": ("precision", "{:.2f}"),
    "recall": ("recall", "{:.2f}"),
    "tokens_equal": ("tokens equal", "{:.2f}"),
    "passes": ("passes", "{}"),
    "seconds_per_image": ("ms / image", "{:.3g}"),
    "speedup": ("speed-up", "{:.1f}x"),
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of metrics.json as a Markdown table."""
    lines = ["| " + " | ".join(title for title, _ in _COLUMNS.values()) + " |"]
    lines.append("| --- |" + " ---: |" * (len(_COLUMNS) - 1))
    for row in rows:
        lines.append("| " + " | ".join(_cell(name, row[name]) for name in _COLUMNS) + " |")
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "seconds_per_image":
        value *= 1e3
    return _COLUMNS[name][1].format(value)


def noise_lines(noise: dict[str, Any]) -> str:
    """How much the distances move from one set of samples to the next."""
    titles = {name: title for name, (title, _) in _COLUMNS.items()}
    sets = noise["resamplings"]
    lines = [
        f"Noise: over {sets} fresh sets of samples (mean ± standard deviation)" if sets > 1
        else "Noise: not told by a single fresh set of samples; raise config.evaluate.resamplings"
    ]
    for method, spread in noise.items():
        if method != "resamplings":
            values = [
                f"{titles[name]} {found['mean']:.3f}"
                + ("" if found["std"] is None else f" ± {found['std']:.3f}")
                for name, found in sorted(spread.items())
            ]
            lines.append(f"- {method}: {', '.join(values)}")
    return "\n".join(lines)


def _about_data(config: Config) -> list[str]:
    if config.data.name == NO_DATA:
        return ["There are no data to compare with: figures about data are left out."]
    copies = config.data.copies - 1
    jittered = f" The data are the images and {copies} jittered copies of each." if copies else ""
    return [
        "data_floor compares one half of the data with the other. precision and recall are against "
        "the data, as many images of it as samples "
        f"({config.evaluate.neighbours} neighbours).{jittered}"
    ]


def write(root: Path, config: Config, metrics: dict[str, Any]) -> None:
    """Write both files into the workdir and print the table."""
    text = "\n".join(
        [
            f"# {config.name}, seed {config.seed}",
            "",
            table(metrics["rows"]),
            "",
            f"FD is the Fréchet distance of {metrics['samples']} samples in these features: "
            f"{metrics['features']}. The fewer the samples, the larger it comes out: compare "
            "within this table alone.",
            *_about_data(config),
            "FD to teacher is the distance to another set of as many samples by teacher_ar, whose "
            "own row is therefore the floor of that column.",
            "tokens equal: share of ids that are those of the teacher's map for the same held-out "
            "noise. ms / image: noise to pixels in batches of "
            f"{config.evaluate.batch} on each of {metrics['devices']} devices, steady state, "
            "without compilation.",
            "teacher_involved_N_M: the teacher makes groups N to M - 1, counted from 0. skip_N and "
            "onestep_class draw what is missing from the marginals given the class; onestep_all "
            "from those over all images.",
            "",
            noise_lines(metrics["noise"]),
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
    print(f"\n{table(metrics['rows'])}\n\n{noise_lines(metrics['noise'])}\n", flush=True)
