"""Stage `evaluate`: a row of figures for each way of sampling, pictures, a report."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from ddjax.config.schema import NO_DATA, Config
from ddjax.evaluation import reference_sets, report
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import Samples, measured
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference, among
from ddjax.method import ways
from ddjax.method.ways import Way
from ddjax.runtime import hosts
from ddjax.stages import feature_net, report_pictures, running
from ddjax.stages.data_sets import DataSets
from ddjax.stages.sample_sets import REFERENCE, TEACHER, SampleSets


def run(config: Config, directory: Path) -> str:
    """Measure; write report.md, metrics.json and pictures into the workdir."""
    begin, section = time.perf_counter(), config.evaluate
    measure = _measure(config, directory)
    most = among(measure.network).samples or section.samples
    samples = SampleSets(
        config, directory, measure, [ways.parse(name) for name in section.methods],
        lambda index: index < most,
    )
    reference, data = _reference(config, directory, measure, samples)
    samples.make_all()
    teacher = samples.folder(TEACHER, REFERENCE).read().statistics.pooled.gaussian
    reference = dataclasses.replace(reference, teacher=teacher)
    rows = data.rows(reference) if data else []
    rows += [measured(way.name, _sets(samples, way), reference) for way in samples.methods]
    metrics = {
        **report.about(config, measure, reference),
        "seconds_total": round(
            running.seconds_before(directory.parent, "evaluate") + time.perf_counter() - begin, 1
        ),
        "measuring_share": {way.name: _measuring_share(samples, way) for way in samples.methods},
        "rows": rows,
    }
    shown = report_pictures.write(directory, samples, data, rows)
    if hosts.is_first():
        report.write(directory.parent, config, metrics, shown)
    return f"{section.sets} x {section.samples} samples for each of {len(samples.methods)} " \
        f"methods: {directory.parent / 'report.md'}"


def _measure(config: Config, directory: Path) -> Measure:
    net = feature_net.for_evaluation(config, directory.parent)
    digest = feature_net.digest_for_evaluation(config, directory.parent)
    return Measure(
        net, Network.of(net, config.evaluate.features.kind, digest), config.evaluate.batch,
        config.evaluate.checkpoint_every,
    )


def _reference(
    config: Config, directory: Path, measure: Measure, samples: SampleSets
) -> tuple[Reference, DataSets | None]:
    """What samples are compared with, and the data if there are any."""
    data, reference = None, Reference(measure.network, neighbours=config.evaluate.neighbours)
    if config.evaluate.reference:
        reference = reference_sets.of_path(
            Path(config.evaluate.reference), measure, directory / REFERENCE,
            config.evaluate.neighbours, config.seed,
        )
    if config.data.name != NO_DATA:
        data = DataSets(config, directory, measure, samples.has_labels)
        data.make_all(samples.models.tokenizer)
        reference = reference if config.evaluate.reference else data.reference()
    return reference, data


def _sets(samples: SampleSets, way: Way) -> Iterator[Samples]:
    """The sets of a way, one after another."""
    for i in range(samples.config.evaluate.sets):
        folder = samples.folder(way, i)
        made, teacher = folder.read(), None
        if TEACHER in samples.methods:
            teacher = samples.folder(TEACHER, i).read().seconds_per_image
        yield Samples(
            made.statistics, folder.rows("features"), way.passes(samples.config.groups),
            made.seconds_per_image if way.runs_a_network else None, teacher,
        )


def _measuring_share(samples: SampleSets, way: Way) -> float:
    """Of the time that the first set of a way took: what was not drawing."""
    made = samples.folder(way, 0).read()
    share = 1 - made.seconds_per_image * samples.config.evaluate.samples / made.elapsed
    return round(max(share, 0.0), 3)
