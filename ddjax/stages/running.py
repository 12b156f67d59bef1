"""Stage runner: the settings that decide a stage, its folder, its inputs, when it is done."""

import contextlib
import dataclasses
import functools
import json
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ddjax.config import reading
from ddjax.config.schema import SCORE, Config, DataSection, TextSection
from ddjax.data import caption_sets, conditions
from ddjax.evaluation import image_sets
from ddjax.runtime import compilation, hosts, sharding
from ddjax.stages import registry
from ddjax.stages.registry import STAGES, Stage
from ddjax.storage import files, run_models
from ddjax.storage.workdir import RETIRED, Folder

# Keys that change how a stage runs but not what comes out, beside those of `RETIRED`.
_NEUTRAL = ("log_every", "checkpoint_every", "keep", "directory", "cache", "skip_at_most")
# A key of such a name that does.
_DECIDES = "evaluate.keep"


def settings(
    config: Config, stage: Stage, weights: Callable[[str, Any], str] = run_models.check_weights
) -> dict[str, Any]:
    """The keys and values that decide what a stage makes, flat: {"teacher.model.width": 96}.

    A model folder stands there by its digest: it may move, but not change. So do captions, and what
    samples are compared with.

    Args:
      config: of the run.
      stage: of it.
      weights: what stands for a model folder, by its key and its section.

    Raises:
      UserError: a model folder or the file of captions is missing.
    """
    tree, flat = _deciding(config), {"seed": config.seed}
    todo = [stage]
    for one in todo:
        if one.model and tree[one.model]["weights"]:
            flat.update({f"{one.model}.{key}": tree[one.model][key] for key in ("kind", "weights")})
            continue
        for section in one.sections:
            flat.update(_flatten(tree[section], section))
        if one.name == "distill":
            flat.pop("student.split", None)  # how a student is read, not how it is trained
        todo += [earlier for earlier in registry.reads(config, one) if earlier not in todo]
    for key in [key for key in flat if key.endswith(".weights")]:
        where = key.removesuffix(".weights")
        section = config.student_model if where == "student" else operator.attrgetter(where)(config)
        if flat.pop(key):
            flat[key] = weights(f"config.{key}", section)
    if flat.get("distill.start"):
        student = dataclasses.replace(config.student_model, weights=flat["distill.start"])
        flat["distill.start"] = weights("config.distill.start", student)
    if flat.get("evaluate.clip.vocabulary"):
        path = Path(flat["evaluate.clip.vocabulary"])
        where = "config.evaluate.clip.vocabulary"
        flat["evaluate.clip.vocabulary"] = files.input_digest(path, where)
    if flat.get("evaluate.reference"):
        path = Path(flat["evaluate.reference"])
        flat["evaluate.reference"] = image_sets.digest(path, "config.evaluate.reference")
    flat = {key: value for key, value in flat.items() if not key.startswith("data.captions")}
    if config.has_captions:
        flat |= captions(config, weights)
    if not config.data.is_prepared:
        flat.pop("data.image_channels", None)
    return json.loads(json.dumps(flat))


def _deciding(config: Config) -> dict[str, Any]:
    """The config as a tree, without keys that decide nothing as they are set."""
    tree = dataclasses.asdict(config)
    if config.clip is None:
        del tree["evaluate"]["clip"]
    for section in ("tokenizer", "distill"):
        if not tree[section]["perceptual"]:
            del tree[section]["perceptual_net"]
    if not config.distill.keep_best:  # then validation does not decide what is made
        for key in ("validate_every", "validate_samples", "keep_best"):
            del tree["distill"][key]
    if SCORE not in config.distill.method:
        # Folders of earlier versions do not have these.
        del tree["distill"]["method"], tree["distill"]["score"]
    # Nor these.
    if not config.distill.start:
        del tree["distill"]["start"]
    for key in ("perceptual", "revive_every", "hold_out"):
        if not tree["tokenizer"][key]:
            del tree["tokenizer"][key]
    return tree


def section_settings(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """As `settings`, of the seed and these sections alone.

    Args:
      config: of the run.
      names: of sections without weights, such as evaluate.features.
    """
    flat = {"seed": config.seed}
    for name in names:
        flat |= _flatten(dataclasses.asdict(operator.attrgetter(name)(config)), name)
    return json.loads(json.dumps(flat))


def captions(
    config: Config, weights: Callable[[str, Any], str] = run_models.check_weights
) -> dict[str, Any]:
    """What decides the captions and their features; files stand there by their digests."""
    data, text = config.data, config.text
    flat = {}
    if caption_sets.is_named(data.captions):
        flat["data.captions"] = caption_sets.identity(data)
    elif data.captions:
        flat["data.captions"] = files.input_digest(Path(data.captions), "config.data.captions")
    if text is not None:
        flat |= {f"data.{key}": getattr(data, key) for key in
                 ("captions_field", "captions_seed", "captions_distinct")}
        flat |= {
            "text.weights": weights("config.text.weights", text),
            "text.pieces": (
                files.input_digest(Path(text.pieces), "config.text.pieces") if text.pieces
                else _made_vocabulary(data, text, flat.get("data.captions", ""))
            ),
            "text.clean": text.clean,
            **dict(_flatten(dataclasses.asdict(text.model), "text.model")),
        }
    return flat


@functools.lru_cache(1)
def _made_vocabulary(data: DataSection, text: TextSection, captions: str) -> str:
    """The digest of a vocabulary made from captions, which takes reading all of them."""
    del captions  # their digest: what is kept for other captions does not count
    return conditions.vocabulary_digest(data, text)


def _flatten(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield where, tree
        return
    for key, value in tree.items():
        path = f"{where}.{key}"
        if path == _DECIDES or (key not in _NEUTRAL and path not in RETIRED):
            yield from _flatten(value, path)


def folder(config: Config, root: Path, stage: Stage) -> Folder:
    """The folder of a stage in a workdir."""
    directory = root / stage.folder(config)
    repair = stage.repair.format(directory, stage.name)
    return Folder(directory, settings(config, stage), stage.output, repair)


def seconds_before(root: Path, name: str) -> float:
    """What the stages before this one took together."""
    names = list(STAGES)
    earlier = (Folder(root / other, {}).finished for other in names[: names.index(name)])
    return sum(done["seconds"] for done in earlier if done)


def prepare(config: Config, root: Path) -> None:
    """Find the other processes, and keep compiled programs; before any device is used."""
    hosts.join(**dataclasses.asdict(config.hosts))
    compilation.keep_programs(root)


def run_all(config: Config, root: Path, stages: Sequence[Stage]) -> None:
    """Run stages one after another in a workdir, on the config's mesh.

    Raises:
      UserError: as `run`; a missing model folder is reported at once, not hours later.
    """
    for stage in stages:
        settings(config, stage)
    if STAGES["distill"] in stages:
        _check_validation(config, root)
    hosts.check_shared(root)
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        for stage in stages:
            run(config, root, stage)


def _check_validation(config: Config, root: Path) -> None:
    """Refuse to begin without the net of a validation, which is not among the settings of distill.

    Raises:
      UserError: it is missing.
    """
    features = config.evaluate.features
    done = config.student.weights or Folder(root / "distill", {}).finished
    if config.distill.validate_every and features.weights and not done:
        run_models.check_weights("config.evaluate.features.weights", features)


def run(config: Config, root: Path, stage: Stage) -> None:
    """Run a stage unless it is finished or a model folder takes its place; print a line about it.

    Raises:
      UserError: what it reads is not there or damaged, it was made by other settings or from other
        inputs, what it made is damaged, or another run makes it.
    """
    if stage.model and getattr(config, stage.model).weights:
        hosts.print_once(f"{stage.name:<10} not run: config.{stage.model}.weights is given")
        return
    inputs = {
        earlier.name: folder(config, root, earlier).require(earlier.name)
        for earlier in registry.reads(config, stage)
        if not (earlier.model and getattr(config, earlier.model).weights)
    }
    own = folder(config, root, stage)
    own.begin(reading.plain(config))
    make_once(own, stage.name, inputs, lambda: stage.module.run(config, own.directory))


def make_once(
    own: Folder, name: str, inputs: Mapping[str, str], make: Callable[[], str]
) -> None:
    """Make what belongs into a folder, unless it is finished; print a line about it.

    Args:
      own: the folder, begun.
      name: of the stage.
      inputs: digests of what it reads, by the stage that made it.
      make: makes it, and returns a line about it.

    Raises:
      UserError: it was made from other inputs, what is there is damaged, or another run makes it.
    """
    done = own.finished
    if done is not None:
        own.check_inputs(inputs)
        own.check_output()
        hosts.print_once(f"{name:<10} finished before: {done['summary']}")
        return
    start = time.perf_counter()
    first = hosts.is_first()
    with files.locked(own.directory / ".lock") if first else contextlib.nullcontext():
        summary = make()
    seconds = time.perf_counter() - start
    own.finish(summary, seconds, inputs)
    hosts.print_once(f"{name:<10} {summary}  ({seconds:.0f} s)")
