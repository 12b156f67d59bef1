"""Config reading: from a file under configs/ to `Config`, with types and defaults.

Every refusal names the key, what was found and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddjax.config.checks import check
from ddjax.config.schema import Config
from ddjax.models import DTYPES, MODELS
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Build and check a `Config`.

    Raises:
      UserError: unknown or missing key, wrong type, value out of range, or a contradiction.
    """
    config = _build(Config, tree, "")
    check(config)
    return config


def complete(tree: Mapping[str, Any]) -> ConfigDict:
    """What a file under configs/ returns: its keys, and all others at their defaults.

    So every key can be set on the command line. Tuples become text, "0,5", which is how they are
    written there.

    Raises:
      UserError: as `from_dict`, but for contradictions.
    """
    from ml_collections import ConfigDict  # the benchmark's suites read configs without it

    return ConfigDict(plain(_build(Config, tree, "")))


def plain(value: Any) -> Any:
    """A config, or a part of it, as keys and values; `from_dict` makes the very same of it."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _build(cls: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise UserError(f"config.{where.rstrip('.')}: expected keys and values, got {tree!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}"
            raise UserError(f"config.{where}{key}: unknown key; {hint}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], f"{where}{name}", tree)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"config.{where}{name}: missing")
    if cls in {model.Config for model in MODELS.values()}:
        _check_model(cls, values, where)
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"config.{where.rstrip('.')}: {error}") from None


def _check_model(cls: type, values: dict[str, Any], where: str) -> None:
    """The numbers of a model are sizes: from 1, or from 0 where that is the default."""
    dtype = values.get("dtype", DTYPES[0])
    if dtype not in DTYPES:
        raise UserError(f"config.{where}dtype: got {dtype}, must be one of {', '.join(DTYPES)}")
    for field in dataclasses.fields(cls):
        value, least = values.get(field.name), 0 if field.default == 0 else 1
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, int) and part < least for part in parts):
            shown = ",".join(map(str, parts))
            raise UserError(f"config.{where}{field.name}: got {shown}, must be >= {least}")


def _convert(hint: Any, value: Any, where: str, siblings: Mapping[str, Any]) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if hint is Any:  # the sizes of a model, whose class its kind names
        kind = siblings["kind"]
        if kind not in MODELS:
            known = ", ".join(MODELS)
            raise UserError(f"config.{where}: unknown kind {kind!r} beside it; known are {known}")
        return _build(MODELS[kind].Config, value, f"{where}.")
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{where}.")
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str):  # from the command line: 3,3,7
            value = [part.strip() for part in value.split(",") if part.strip()]
            if item is int:
                value = [_parse_int(part, where) for part in value]
        if not isinstance(value, list | tuple):
            value = [value]
        return tuple(_convert(item, part, where, siblings) for part in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"config.{where}: expected {hint.__name__}, got {value!r}")
    return value


def _parse_int(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"config.{where}: expected whole numbers, got {text!r}") from None
