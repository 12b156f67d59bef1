"""Config checks: values out of range and contradictions, refused before anything is computed.

Every refusal names the key, what was found and what would be right.
"""

import math
import re
from typing import Any

from ddjax.config.schema import (
    CLEANERS,
    DATA_SETS,
    FOLDER,
    KEPT,
    LABELS,
    MAP,
    NO_DATA,
    SCORE,
    SHAPES,
    TFDS,
    TURNS,
    Config,
    DataSection,
    ModelSection,
    TrainSection,
)
from ddjax.method import ways
from ddjax.models import MODELS
from ddjax.runtime.errors import UserError


def _require(holds: bool, where: str, found: Any, wanted: str) -> None:
    if not holds:
        raise UserError(f"config.{where}: got {found}, must be {wanted}")


def _require_count(where: str, found: int) -> None:
    """Pairs and images are numbered in 32 bits."""
    _require(1 <= found < 2**31, where, found, "in 1..2^31-1")


def check(c: Config) -> None:
    """Raise UserError for the first thing that cannot work."""
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
    _check_distill(c)
    _check_validation(c)
    for where, train in _trainings(c).items():
        _check_train(where, train)
    for key in ("count", "per_shard", "batch"):
        _require_count(f"pairs.{key}", getattr(c.pairs, key))
    _check_evaluate(c)
    _require(c.flow.steps >= c.flow.order, "flow.steps", c.flow.steps, ">= flow.order")
    _require(1 <= c.flow.order <= 5, "flow.order", c.flow.order, "in 1..5")
    _require(0 < c.flow.reach < math.inf, "flow.reach", c.flow.reach, "> 0")
    for where, weight in (
        ("tokenizer.commitment", c.tokenizer.commitment),
        ("tokenizer.entropy", c.tokenizer.entropy),
        ("tokenizer.perceptual", c.tokenizer.perceptual),
        ("distill.cross_entropy", c.distill.cross_entropy),
        ("distill.perceptual", c.distill.perceptual),
    ):
        _require(0 <= weight < math.inf, where, weight, ">= 0, the weight of a loss")


def _models(c: Config) -> dict[str, ModelSection]:
    models = {
        "tokenizer": c.tokenizer,
        "teacher": c.teacher,
        "distill.perceptual_net": c.distill.perceptual_net,
        "evaluate.features": c.evaluate.features,
    }
    if c.tokenizer.perceptual_net is not None:
        models["tokenizer.perceptual_net"] = c.tokenizer.perceptual_net
    return models


def _trainings(c: Config) -> dict[str, TrainSection]:
    models = {f"{where}.train": part.train for where, part in _models(c).items() if part.train}
    models["distill.train"] = c.distill.train
    if c.distill.score:
        models |= {f"distill.score.{key}": getattr(c.distill.score, key) for key in
                   ("train", "fake")}
    return models


def _check_train(where: str, train: TrainSection) -> None:
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
    last = train.steps - 1  # the rate falls in at least one step
    _require(
        0 <= train.warmup <= last, f"{where}.warmup", train.warmup, f"in 0..{last}, below steps"
    )


def _check_models(c: Config) -> None:
    tokenizer, teacher = c.tokenizer.model, c.teacher.model
    _check_data(c.data)
    _check_conditions(c)
    _check_text(c)
    ok = not c.tokenizer.perceptual or c.tokenizer.perceptual_net is not None
    _require(ok, "tokenizer.perceptual_net", "none", "a feature net for tokenizer.perceptual > 0")
    every = c.tokenizer.revive_every
    _require(every >= 0, "tokenizer.revive_every", every, ">= 0 (0: never)")
    vocab = tokenizer.vocab_size
    _require(1 <= vocab <= 2**16, "tokenizer.model.vocab_size", vocab, "in 1..65536: 16-bit ids")
    for key in ("vocab_size", "code_dim"):
        ours, theirs = getattr(teacher, key), getattr(tokenizer, key)
        _require(ours == theirs, f"teacher.model.{key}", ours, f"the tokenizer's, {theirs}")
    (key, ours), (theirs_key, theirs) = teacher.token_maps, tokenizer.token_maps
    _require(
        ours == theirs, f"teacher.model.{key}", _listed(ours),
        f"the tokenizer's, {_listed(theirs)}, which tokenizer.model.{theirs_key} sets",
    )
    for where, part in _models(c).items():
        _require(
            part.train is not None or bool(part.weights), f"{where}.weights", "none",
            f"a model folder, or {where}.train must say how it is trained here",
        )
        unused = where in _unread(c)
        _require(
            c.data.name != NO_DATA or bool(part.weights) or unused, f"{where}.weights", "none",
            "a model folder: with data.name none there are no images to train it on",
        )
        ours, theirs = getattr(part.model, "image_size", None), c.data.image_size
        _require(
            ours in (None, theirs), f"{where}.model.image_size", ours,
            f"{theirs}, as data.image_size",
        )
        channels = c.data.image_channels or {
            NO_DATA: tokenizer.image_channels, SHAPES: 3
        }.get(c.data.name, 1)
        ours = getattr(part.model, "image_channels", channels)
        _require(ours == channels, f"{where}.model.image_channels", ours, f"{channels}, the data's")


def _unread(c: Config) -> set[str]:
    """Nets of losses whose weight is 0."""
    sections = {"tokenizer": c.tokenizer, "distill": c.distill}
    return {f"{name}.perceptual_net" for name, part in sections.items() if not part.perceptual}


def _check_data(data: DataSection) -> None:
    known = f"one of {', '.join(DATA_SETS)}, or {TFDS}NAME"
    ok = data.name in DATA_SETS or (data.name.startswith(TFDS) and data.name != TFDS)
    _require(ok, "data.name", data.name, known)
    for key in ("copies", "image_size"):
        _require(getattr(data, key) >= 1, f"data.{key}", getattr(data, key), ">= 1")
    channels, where = data.image_channels, "data.image_channels"
    if data.is_prepared:
        _require(channels in (1, 3), where, channels, f"1 or 3, for {data.name}")
        _require(data.copies == 1, "data.copies", data.copies, f"1, for {data.name}")
    else:
        _require(channels == 0, where, channels, f"0, the channels that {data.name} has")
    ok = data.name != FOLDER or bool(data.directory)
    _require(ok, "data.directory", "none", "the folder of your images")
    _require(0 <= data.skip_at_most < 1, "data.skip_at_most", data.skip_at_most, "in [0, 1)")


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _check_conditions(c: Config) -> None:
    """Either classes, and as many everywhere, or captions."""
    classes, captions = c.data.num_classes, c.has_captions
    _require(classes >= 0, "data.num_classes", classes, ">= 1, or 0 with data.captions")
    _require(
        captions == (classes == 0), "data.captions", c.data.captions or "none",
        "a file of captions, or data.num_classes above 0" if not captions
        else f"none with data.num_classes {classes}",
    )
    for where, part in _models(c).items():
        ours = getattr(part.model, "num_classes", None)
        is_net = where not in ("teacher", "tokenizer")  # which may classify otherwise
        wanted, why = classes, "as data.num_classes"
        if is_net and classes == 1:
            wanted, why = TURNS, "the quarter turns that nets of images without classes tell apart"
        _require(
            ours in (None, wanted) or (is_net and captions), f"{where}.model.num_classes", ours,
            f"{wanted}, {why}",
        )
    _require(
        not c.data.captions or c.data.name == NO_DATA, "data.name", c.data.name,
        "none with data.captions: no image has these captions",
    )
    size = c.data.image_size
    _require(c.data.name != SHAPES or size == 32, "data.image_size", size, "32, the shapes'")


def _check_text(c: Config) -> None:
    """An encoder where captions are texts, of the width that the teacher reads; else none."""
    texts = c.has_captions and not c.data.captions.endswith(".npz")
    if c.text is None:
        _require(
            not texts, "data.captions", c.data.captions or c.data.name,
            "an .npz file of features, or text must name an encoder, as in configs/llamagen_t2i.py",
        )
        other = "captions" if c.has_captions else "labels"
        wanted = f"none: without text, images are asked for by sample.{other}"
        _require(not c.sample.prompts, "sample.prompts", c.sample.prompts, wanted)
        return
    encoders = [kind for kind, cls in MODELS.items() if hasattr(cls, "embed_text")]
    _require(c.text.kind in encoders, "text.kind", c.text.kind, f"one of {', '.join(encoders)}")
    wanted = "a file of texts, such as .txt or .jsonl, or text none"
    _require(texts, "data.captions", c.data.captions or "none", wanted)
    ours, theirs = c.text.model.width, getattr(c.teacher.model, "caption_dim", 0)
    _require(ours == theirs, "text.model.width", ours, f"{theirs}, teacher.model.caption_dim")
    _require(c.text.train is None, "text.train", "a training", "none: the encoder is not trained")
    _require(bool(c.text.weights), "text.weights", "none", "a model folder")
    known = ", ".join(CLEANERS)
    _require(c.text.clean in CLEANERS, "text.clean", c.text.clean, f"one of {known}")
    ok = bool(c.text.pieces) or c.text.weights == "random"
    _require(ok, "text.pieces", "none", "the spiece.model of the encoder")
    _require(c.data.captions_seed >= -1, "data.captions_seed", c.data.captions_seed, ">= -1")


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
    if s.split < count and not s.weights:  # the rest is read from the vector head
        untrained = "distill.perceptual=0" if not c.distill.perceptual else "distill.method=score"
        _require(
            c.distill.perceptual > 0 and SCORE not in c.distill.method, "student.split", s.split,
            f"{count}, all groups, with {untrained}: nothing trains the vector head",
        )


def _check_distill(c: Config) -> None:
    d, known = c.distill, ((MAP,), (SCORE,), (MAP, SCORE))
    wanted = "map, score, or map,score"
    _require(d.method in known, "distill.method", ",".join(d.method) or "none", wanted)
    if MAP in d.method:  # what reads pairs
        batch, count = d.train.batch, c.pairs.count
        _require(batch <= count, "distill.train.batch", batch, f"at most pairs.count {count}")
    if SCORE not in d.method:
        return
    _require(d.score is not None, "distill.score", "none", "given for distill.method score")
    s = d.score
    ok = 0 < s.levels.low < s.levels.high < math.inf
    found = f"{s.levels.low}..{s.levels.high}"
    _require(ok, "distill.score.levels", found, "0 < low < high")
    for key in ("fake_updates", "passes"):
        _require(getattr(s, key) >= 1, f"distill.score.{key}", getattr(s, key), ">= 1")
    if s.passes > 1:
        _require_refining(c, "distill.score.passes", s.passes)
    for key in ("fake_rate", "temperature"):
        value = getattr(s, key)
        _require(0 < value < math.inf, f"distill.score.{key}", value, "> 0")


def _check_validation(c: Config) -> None:
    d, known = c.distill, ("", "tokens_equal", "fd")
    _require(d.validate_every >= 0, "distill.validate_every", d.validate_every, ">= 0 (0: never)")
    ok = 2 <= d.validate_samples < 2**30
    _require(ok, "distill.validate_samples", d.validate_samples, "in 2..2^30-1")
    _require(d.keep_best in known, "distill.keep_best", d.keep_best, 'tokens_equal, fd, or ""')
    _require(
        not d.keep_best or d.validate_every > 0, "distill.validate_every", d.validate_every,
        f">= 1 for distill.keep_best {d.keep_best}",
    )


def _check_evaluate(c: Config) -> None:
    for key in ("batch", "sets", "neighbours", "checkpoint_every"):
        _require(getattr(c.evaluate, key) >= 1, f"evaluate.{key}", getattr(c.evaluate, key), ">= 1")
    samples, fewest = c.evaluate.samples, c.evaluate.neighbours + 1
    _require_count("evaluate.samples", samples)
    _require(samples >= fewest, "evaluate.samples", samples, f">= {fewest}, neighbours + 1")
    labels, keep = c.evaluate.labels, c.evaluate.keep
    _check_clip(c)
    _require(labels in LABELS, "evaluate.labels", labels, f"one of {', '.join(LABELS)}")
    _require(keep in KEPT, "evaluate.keep", keep, f"{', '.join(filter(None, KEPT))}, or empty")


def _check_clip(c: Config) -> None:
    if c.clip is None:
        return
    nets = [kind for kind, cls in MODELS.items() if hasattr(cls, "embed_images")]
    _require(
        c.clip.kind in nets, "evaluate.clip.kind", c.clip.kind, f"one of {', '.join(nets)}"
    )
    wanted = "none: the score is of images drawn from captions that are texts"
    _require(c.text is not None, "evaluate.clip.weights", c.clip.weights, wanted)
    wanted = "CLIP's bpe_simple_vocab_16e6.txt.gz"
    _require(bool(c.clip.vocabulary), "evaluate.clip.vocabulary", "none", wanted)
    channels = c.tokenizer.model.image_channels
    _require(channels == 3, "evaluate.clip.weights", c.clip.weights, "none: CLIP sees colour")


def _check_methods(c: Config) -> None:
    _require(bool(c.evaluate.methods), "evaluate.methods", "none", "one or more")
    for where, names in (
        ("evaluate.methods", c.evaluate.methods), ("sample.method", (c.sample.method,)),
    ):
        for way in map(ways.parse, names):
            if problem := way.problem(c.groups, c.sampling):
                raise UserError(f"config.{where}: {way.name}: {problem}")
            if isinstance(way, ways.SelfRefine):
                _require_refining(c, where, way.name)
            if "marginals" in way.reads:
                _check_marginals(c, where, way)
    _require_count("sample.count", c.sample.count)


def _require_refining(c: Config, where: str, found: Any) -> None:
    kinds = [kind for kind, cls in MODELS.items() if hasattr(cls, "refined")]
    wanted = f"of a refining student: student.kind {' or '.join(kinds)}, not {c.student.kind}"
    _require(c.student.kind in kinds, where, found, wanted)


def _check_marginals(c: Config, where: str, way: ways.Way) -> None:
    classes = c.data.num_classes
    if way.needs_classes:
        _require(classes > 0, where, way.name, "onestep_all with captions: there are no classes")
    _require(
        c.pairs.count >= classes, "pairs.count", c.pairs.count,
        f">= {classes}, a pair of each class, for {way.name}",
    )
