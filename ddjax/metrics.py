"""Metrics of images of any generator: `python -m ddjax.metrics SAMPLES REFERENCE`.

Both are a folder of PNG or JPEG files or an .npz with images `arr_0`; the reference may also be an
.npz of statistics, ADM's, pytorch-fid's or one that this command makes of a folder:

    python -m ddjax.metrics reference FOLDER --output=stats.npz

It prints FID, sFID, Inception score, precision and recall, and how they were made.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
from absl import flags

from ddjax import cli
from ddjax.config.schema import ModelSection
from ddjax.evaluation import image_sets, reference_sets, statistics_files
from ddjax.evaluation.making import Keep
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import METRICS, Samples, measured
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference, among
from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics_files import VERSION
from ddjax.method.protocols import FeatureNet
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files, model_folder, run_models

# Of so few samples FID comes out much larger than of the 50,000 that papers compare.
FEW = 10_000

# Of precision and recall.
NEIGHBOURS = 3

_INCEPTION = flags.DEFINE_string(
    "inception", "conversion/weights/pt_inception-2015-12-05-6726825d",
    "Model folder of Inception, or of another net that compares images"
)
_RESIZE = flags.DEFINE_string("resize", "", "How Inception resizes; as its folder says by default")
_BATCH = flags.DEFINE_integer("batch", 50, "Images at once on each device", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", "", "A new file: of statistics with `reference`, else of the figures, as JSON"
)


def main(samples: str, reference: str) -> None:
    """Compare samples with a reference, or make a file of statistics."""
    if samples == "reference" and not _OUTPUT.value:
        raise UserError("--output is missing; name the file to write, such as stats.npz")
    if _OUTPUT.value and Path(_OUTPUT.value).exists():
        raise UserError(f"--output={_OUTPUT.value} exists already; name another file")
    with jax.set_mesh(sharding.this_process()), tempfile.TemporaryDirectory() as scratch:
        measure = _measure()
        if samples == "reference":
            _make_reference(Path(reference), measure, Path(scratch))
        else:
            _compare(Path(samples), Path(reference), measure, Path(scratch))


def _measure() -> Measure:
    folder = Path(_INCEPTION.value)
    section = ModelSection("inception", None, weights=str(folder))
    digest = run_models.check_weights("--inception", section)
    sizes = model_folder.read_sizes(folder)
    net = model_folder.load(folder, sizes=_resizing(sizes, _RESIZE.value))
    kind = next(kind for kind, cls in MODELS.items() if cls is type(net))
    if not isinstance(net, FeatureNet):
        raise UserError(f"--inception={folder} holds a {kind}, which does not compare images")
    return Measure(sharding.replicate(net), Network.of(net, kind, digest), _BATCH.value, 1000)


def _resizing(sizes: Any, resize: str) -> Any:
    try:
        return dataclasses.replace(sizes, resize=resize) if resize else sizes
    except TypeError:
        raise UserError(f"--resize={resize}: the net of --inception does not resize") from None
    except ValueError as error:
        raise UserError(f"--resize={resize}: {error}") from None


def _make_reference(path: Path, measure: Measure, scratch: Path) -> None:
    images, output = image_sets.open_images(path), Path(_OUTPUT.value)
    about = Reference(measure.network, str(path), neighbours=1)
    made = reference_sets.of_images(images, about, measure, scratch, seed=0)
    statistics_files.write(output, made)
    print(f"{output}: statistics of the {made.count} images of {path}")
    _print_lines([*_how(measure), made.remark, *_few(made.count, measure, str(path))])


def _compare(path: Path, reference_path: Path, measure: Measure, scratch: Path) -> None:
    images = image_sets.open_images(path)
    if len(images) <= NEIGHBOURS:
        raise UserError(f"{path} has {len(images)} images; must be at least {NEIGHBOURS + 1}")
    reference = reference_sets.of_path(
        reference_path, measure, scratch / "reference", NEIGHBOURS, seed=0
    )
    most = among(measure.network).samples or len(images)
    folder = SetFolder(scratch / "samples", len(images), Keep(lambda index: index < most))
    measure.images(folder, str(path), images)
    samples = Samples(folder.read().statistics, folder.rows("features"))
    row = measured(str(path), [samples], reference)
    found = {metric: row[metric.name] for metric in METRICS if row[metric.name] is not None}
    for metric, value in found.items():
        print(f"{metric.title:<14} {value:.4f}")
    notes = [
        f"{path}: {len(images)} images of {_shown(images.shape)}", *_against(reference),
        *_how(measure), images.remark(), reference.remark, *_few(len(images), measure, str(path)),
    ]
    _print_lines(notes)
    if _OUTPUT.value:
        files.write_json(Path(_OUTPUT.value), {
            "figures": {metric.name: value for metric, value in found.items()},
            "samples": {"path": str(path), "count": len(images)},
            "reference": {"path": reference.name, "count": reference.count},
            "network": measure.network._asdict(), "ddjax": VERSION,
            "notes": [note for note in notes if note],
        })


def _against(reference: Reference) -> list[str]:
    count = "an unknown number of" if reference.count is None else reference.count
    lines = [f"{reference.name}: statistics of {count} images"]
    if reference.features_NF is None:
        lines.append(f"{reference.name} has no images: no precision and recall")
    else:
        samples = reference.among.samples
        lines.append(
            f"precision and recall: {len(reference.features_NF)} images of the reference, "
            f"{'all' if samples is None else f'at most {samples}'} samples, {NEIGHBOURS} neighbours"
        )
    return lines


def _how(measure: Measure) -> list[str]:
    network = measure.network
    lines = [f"ddjax {VERSION}; {network.kind} {network.digest[:12]}, {measure.width} features"]
    if network.resize:
        lines[0] += f", resize {network.resize}"
    if not network.is_inception:
        lines.append(f"{network.kind} is not Inception: the distances are not FID")
    return lines


def _few(count: int, measure: Measure, what: str) -> list[str]:
    lines = []
    if count < FEW:
        lines.append(
            f"warning: {what}: {count} images; of fewer than {FEW} Fréchet distances come out "
            "larger than papers' of 50,000"
        )
    if count <= measure.width:
        lines.append(
            f"warning: {what}: {count} images for {measure.width} features, so that their "
            "covariance is singular; computed all the same"
        )
    return lines


def _shown(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} x {channels}"


def _print_lines(lines: list[str]) -> None:
    print("\n".join(filter(None, lines)))


if __name__ == "__main__":
    cli.run(main, "SAMPLES", "REFERENCE")
