"""Variants of a config: `--over=KEY=VALUE,VALUE` changes one key.

Values are separated by commas; where a value has commas itself, because the key is a list such as
student.steps, by semicolons: `student.steps=0,5;0,3`. A semicolon separates the values of any key.
"""

import copy
import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from ddjax.config import reading
from ddjax.config.schema import Config
from ddjax.method import ways
from ddjax.runtime.errors import UserError

# What a command decides, or the seeds do.
_NOT_OVER = {"seed": "say --seeds=3 for three of them", "stages": "those are always the same",
             "evaluate.methods": "say --methods"}

# Validations of a training where the config has none.
VALIDATIONS = 10


@dataclasses.dataclass(frozen=True)
class Variant:
    """A config with one key changed.

    Attributes:
      key: "student.steps".
      value: as it was written, "0,5".
      config: the whole.
      name: of its folder; that of an earlier variant with the same config, where there is one.
    """

    key: str
    value: str
    config: Config
    name: str


def of_overs(base: Config, overs: Sequence[str], methods: Sequence[str]) -> list[Variant]:
    """The variants of all --over, see `of_over`.

    Raises:
      UserError: there is no --over, or one is wrong, or a method is unknown.
    """
    if not overs:
        raise UserError("--over is missing; give one such as --over=pairs.count=5000,10000")
    for name in methods:
        ways.parse(name)
    keys = [over.partition("=")[0].strip() for over in overs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--over={key} is there twice; give all its values in one")
    found = [variant for over in overs for variant in of_over(base, over, methods)]
    firsts = [next(one for one in found if one.config == variant.config) for variant in found]
    return [
        dataclasses.replace(variant, name=first.name)
        for variant, first in zip(found, firsts, strict=True)
    ]


def of_over(base: Config, over: str, methods: Sequence[str]) -> list[Variant]:
    """The variants of one --over.

    Args:
      base: the config that is changed.
      over: KEY=VALUES, see above.
      methods: ways of sampling to evaluate, where a variant has them.

    Raises:
      UserError: names what is wrong in it.
    """
    key, equals, values = (part.strip() for part in over.partition("="))
    if not (key and equals and values):
        raise _wrong(over, "expected KEY=VALUE,VALUE, such as --over=pairs.count=5000,10000")
    if key in _NOT_OVER:
        raise _wrong(over, f"{key} cannot be varied; {_NOT_OVER[key]}")
    found = _value(base, key, over)
    is_list = isinstance(found, tuple)
    separator = ";" if ";" in values or is_list else ","
    texts = [text.strip() for text in values.split(separator)]
    if "" in texts:
        raise _wrong(over, "a value is empty")
    if len(texts) < 2:
        hint = f"; {key} is a list, so separate values by semicolons: 0,5;0,3" if is_list else ""
        raise _wrong(over, f"there is one value, {texts[0]}, and nothing to compare{hint}")
    parsed = [_parsed(text, found, over) for text in texts]
    for i, value in enumerate(parsed):
        if value in parsed[:i]:
            raise _wrong(over, f"{texts[i]} is there twice")
    return [
        Variant(key, text, _changed(base, key, value, methods, over), _folder(key, text))
        for text, value in zip(texts, parsed, strict=True)
    ]


def _folder(key: str, value: str) -> str:
    return re.sub(r"[^\w.,=+-]", "_", f"{key}={value}")


def _wrong(over: str, why: Any) -> UserError:
    return UserError(f"--over={over}: {why}")


def _value(base: Config, key: str, over: str) -> Any:
    """What the config has there.

    Raises:
      UserError: there is no such key, or it is not one value.
    """
    part = base
    for name in key.split("."):
        known = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise _wrong(over, f"the config has no key {key}{hint}")
        part = getattr(part, name)
    if dataclasses.is_dataclass(part) or part is None:
        raise _wrong(over, f"{key} is not a single value; name a key of it")
    return part


def _parsed(text: str, found: Any, over: str) -> Any:
    """A value of the type that is there; lists stay text, as configs have them."""
    if isinstance(found, bool):
        if text not in ("true", "false"):
            raise _wrong(over, f"expected true or false, got {text!r}")
        return text == "true"
    if isinstance(found, tuple):
        return ",".join(part.strip() for part in text.split(","))
    try:
        return type(found)(text)
    except ValueError:
        what = "a whole number" if isinstance(found, int) else "a number"
        raise _wrong(over, f"expected {what}, got {text!r}") from None


def _with(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of a tree of keys and values with one value changed."""
    changed = copy.deepcopy(tree)
    *sections, last = key.split(".")
    part = changed
    for section in sections:
        part = part[section]
    part[last] = value
    return changed


def _changed(
    base: Config, key: str, value: Any, methods: Sequence[str], over: str
) -> Config:
    """The config of a variant, with a validation, and the methods that it has.

    Raises:
      UserError: it cannot work.
    """
    tree = _with(reading.plain(base), key, value)
    tree["stages"] = "tokenizer,teacher,pairs,distill,evaluate"
    tree["evaluate"]["methods"] = "teacher_ar"
    tree["sample"]["method"] = "teacher_ar"
    try:
        config = reading.from_dict(tree)
        if not config.distill.validate_every:
            every = max(config.distill.train.steps // VALIDATIONS, 1)
            tree["distill"]["validate_every"] = every
        groups, sampling = config.groups, config.sampling
        has = [name for name in methods if not ways.parse(name).problem(groups, sampling)]
        tree["evaluate"]["methods"] = ",".join(has)
        return reading.from_dict(tree)
    except UserError as error:
        raise _wrong(over, error) from None
