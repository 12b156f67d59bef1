"""Values out of range and contradictions in a config, refused before anything is computed.

Every refusal names the key, what was found and what would be right.
"""

import math
import re
from typing import Any

from ddjax.config import DATA_SETS, NO_DATA, STAGES, Config, Model, Train
from ddjax.errors import UserError
from ddjax.methods import Method
from ddjax.models import MODELS


def _require(holds: bool, where: str, found: Any, wanted: str) -> None:
    if not holds:
        raise UserError(f"config.{where}: got {found}, must be {wanted}")


def check(c: Config) -> None:
    """Raise UserError for the first thing that cannot work."""
    for stage in c.stages:
        _require(stage in STAGES, "stages", stage, f"among {', '.join(STAGES)}")
    _require(bool(c.stages), "stages", "none", f"one or more of {', '.join(STAGES)}")
    _require(c.restore in ("latest", "previous"), "restore", c.restore, "latest or previous")
    ok = not c.profile or (len(c.profile) == 2 and 0 <= c.profile[0] < c.profile[1])
    _require(ok, "profile", c.profile, "two rising step numbers, such as 100,110")
    _require(c.mesh.fsdp >= 1, "mesh.fsdp", c.mesh.fsdp, ">= 1")
    _require(c.hosts.count >= 1, "hosts.count", c.hosts.count, ">= 1")
    index, count = c.hosts.index, c.hosts.count
    _require(0 <= index < count, "hosts.index", index, f"in 0..{count - 1}, below hosts.count")
    alone = count == 1 or bool(c.hosts.coordinator)
    _require(alone, "hosts.coordinator", "none", f"HOST:PORT, for hosts.count {count}")
    ok = re.fullmatch(r"|auto|\S+:\d{1,5}", c.hosts.coordinator)
    _require(bool(ok), "hosts.coordinator", c.hosts.coordinator, "auto or HOST:PORT")
    _require(0 <= c.seed < 2**32, "seed", c.seed, "in 0..2^32-1")
    _check_models(c)
    _check_guidance(c)
    _check_student(c)
    _check_methods(c)
    for where, train in _trainings(c).items():
        _check_train(where, train)
    for key in ("count", "per_shard", "batch"):
        _require(getattr(c.pairs, key) >= 1, f"pairs.{key}", getattr(c.pairs, key), ">= 1")
    batch, count = c.distill.train.batch, c.pairs.count
    _require(batch <= count, "distill.train.batch", batch, f"at most pairs.count {count}")
    for key in ("batch", "resamplings", "neighbours"):
        _require(getattr(c.evaluate, key) >= 1, f"evaluate.{key}", getattr(c.evaluate, key), ">= 1")
    samples, fewest = c.evaluate.samples, c.evaluate.neighbours + 1
    _require(samples >= fewest, "evaluate.samples", samples, f">= {fewest}, neighbours + 1")
    _require(c.flow.steps >= c.flow.order, "flow.steps", c.flow.steps, ">= flow.order")
    _require(1 <= c.flow.order <= 5, "flow.order", c.flow.order, "in 1..5")
    _require(0 < c.flow.reach < math.inf, "flow.reach", c.flow.reach, "> 0")
    for where, weight in (
        ("tokenizer.commitment", c.tokenizer.commitment),
        ("tokenizer.entropy", c.tokenizer.entropy),
        ("distill.cross_entropy", c.distill.cross_entropy),
        ("distill.perceptual", c.distill.perceptual),
    ):
        _require(0 <= weight < math.inf, where, weight, ">= 0, the weight of a loss")


def _models(c: Config) -> dict[str, Model]:
    return {
        "tokenizer": c.tokenizer,
        "teacher": c.teacher,
        "distill.perceptual_net": c.distill.perceptual_net,
        "evaluate.features": c.evaluate.features,
    }


def _trainings(c: Config) -> dict[str, Train]:
    models = {f"{where}.train": part.train for where, part in _models(c).items() if part.train}
    return {**models, "distill.train": c.distill.train}


def _check_train(where: str, train: Train) -> None:
    for key in ("steps", "batch", "accumulate", "log_every", "checkpoint_every", "keep"):
        _require(getattr(train, key) >= 1, f"{where}.{key}", getattr(train, key), ">= 1")
    batch, parts = train.batch, train.accumulate
    _require(batch % parts == 0, f"{where}.accumulate", parts, f"a divisor of batch {batch}")
    rate, b2, decay = train.learning_rate, train.b2, train.weight_decay
    _require(0 < rate < math.inf, f"{where}.learning_rate", rate, "> 0")
    _require(0 <= b2 < 1, f"{where}.b2", b2, "in [0, 1)")
    _require(0 <= decay < math.inf, f"{where}.weight_decay", decay, ">= 0")
    _require(0 <= train.ema < 1, f"{where}.ema", train.ema, "in [0, 1)")
    _require(train.clip > 0, f"{where}.clip", train.clip, "> 0")
    _require(0 <= train.warmup <= train.steps, f"{where}.warmup", train.warmup, "in 0..steps")


def _check_models(c: Config) -> None:
    tokenizer, teacher = c.tokenizer.model, c.teacher.model
    _require(c.data.name in DATA_SETS, "data.name", c.data.name, f"one of {', '.join(DATA_SETS)}")
    for key in ("copies", "image_size", "num_classes"):
        _require(getattr(c.data, key) >= 1, f"data.{key}", getattr(c.data, key), ">= 1")
    vocab = tokenizer.vocab_size
    _require(1 <= vocab <= 2**16, "tokenizer.model.vocab_size", vocab, "in 1..65536: 16-bit ids")
    for key in ("vocab_size", "code_dim", "grid", "scales"):  # not all families have scales
        ours, theirs = getattr(teacher, key, "none"), getattr(tokenizer, key, "none")
        _require(ours == theirs, f"teacher.model.{key}", ours, f"the tokenizer's, {theirs}")
    for where, part in _models(c).items():
        _require(
            part.train is not None or bool(part.weights), f"{where}.weights", "none",
            f"a model folder, or {where}.train must say how it is trained here",
        )
        unused = where == "distill.perceptual_net" and not c.distill.perceptual
        _require(
            c.data.name != NO_DATA or bool(part.weights) or unused, f"{where}.weights", "none",
            "a model folder: with data.name none there are no images to train it on",
        )
        for key in ("image_size", "num_classes"):
            ours, theirs = getattr(part.model, key, None), getattr(c.data, key)
            _require(
                ours in (None, theirs), f"{where}.model.{key}", ours, f"{theirs}, as data.{key}"
            )
        # All the data sets are grey.
        channels = tokenizer.image_channels if c.data.name == NO_DATA else 1
        ours = getattr(part.model, "image_channels", channels)
        _require(ours == channels, f"{where}.model.image_channels", ours, f"{channels}, the data's")


def _check_guidance(c: Config) -> None:
    g, vocab = c.guidance, c.teacher.model.vocab_size
    schedules = ("constant", "linear")
    _require(g.schedule in schedules, "guidance.schedule", g.schedule, "constant or linear")
    least = 1 if g.schedule == "constant" else 0
    _require(
        least <= g.scale < math.inf, "guidance.scale", g.scale,
        f">= {least}, which is none, for schedule {g.schedule}",
    )
    ok = g.interval == -1 or (g.interval >= 0 and g.schedule == "constant")
    _require(ok, "guidance.interval", g.interval, "-1 (all groups), or >= 0 for schedule constant")
    _require(0 < g.temperature < math.inf, "guidance.temperature", g.temperature, "> 0")
    _require(0 <= g.top_k <= vocab, "guidance.top_k", g.top_k, f"in 0..{vocab} (0: all)")
    _require(0 < g.top_p <= 1, "guidance.top_p", g.top_p, "in (0, 1]")
    dropout = c.teacher.label_dropout
    _require(0 <= dropout < 1, "teacher.label_dropout", dropout, "in [0, 1)")
    _require(
        dropout > 0 or not g.is_guided, "teacher.label_dropout", dropout,
        f"> 0 for guidance.scale {g.scale}: guidance needs a teacher that also learned no condition"
    )


def _check_student(c: Config) -> None:
    s, count = c.student, c.groups.count
    students = [
        kind for kind, cls in MODELS.items()
        if hasattr(cls, "from_teacher") and cls.Config is type(c.teacher.model)
    ]
    _require(
        s.kind in students, "student.kind", s.kind,
        f"a student of {c.teacher.kind}: {', '.join(students)}",
    )
    _require(0 <= s.split <= count, "student.split", s.split, f"in 0..{count} groups")
    rising = all(a < b for a, b in zip(s.steps, s.steps[1:], strict=False))
    ok = bool(s.steps) and s.steps[0] == 0 and rising and s.steps[-1] < count
    _require(ok, "student.steps", s.steps, f"rising from 0, below the {count} groups")
    trained = "distill" in c.stages and not s.weights
    _require(
        c.distill.perceptual > 0 or s.split == count or not trained, "student.split", s.split,
        f"{count}, all groups, with distill.perceptual=0: nothing else trains the vector head",
    )


def _check_methods(c: Config) -> None:
    _require(bool(c.evaluate.methods), "evaluate.methods", "none", "one or more")
    _require(c.sample.passes >= 1, "sample.passes", c.sample.passes, ">= 1")
    for where, method in (
        *(("evaluate.methods", Method.parse(name)) for name in c.evaluate.methods),
        ("sample.method", c.sample_method()),
    ):
        problem = method.problem(c.groups.count, len(c.student.steps))
        if problem:
            raise UserError(f"config.{where}: {method.name}: {problem}")
        if "pairs" in method.reads:
            pairs, classes = c.pairs.count, c.data.num_classes
            _require(
                pairs >= classes, "pairs.count", pairs, f">= {classes}, a pair of each class, for "
                f"{method.name}"
            )
    for label in c.sample.labels:
        classes = c.data.num_classes
        _require(0 <= label < classes, "sample.labels", label, f"in 0..{classes - 1}")
    _require(bool(c.sample_labels()), "sample.count", c.sample.count, ">= 1")
