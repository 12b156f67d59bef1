"""Errors as a user sees them; whole commands are run in test_main."""

import errno
from pathlib import Path

import jax
import pytest

from configs import llamagen
from ddjax import cli
from ddjax.runtime.errors import UserError
from tests import tiny

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("error", "line"), [
    (OSError(errno.ENOSPC, "No space left on device", "/w/x"), "the disk is full; nothing"),
    (PermissionError(errno.EACCES, "Permission denied", "/w/x"), "/w/x: Permission denied"),
    (OSError(errno.EROFS, "Read-only file system", "/w/x"), "/w/x: Read-only file system"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
     "the device has not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.)"),
    (MemoryError("Unable to allocate 80 GiB"), "this machine has not enough memory (Unable to"),
])
def test_what_is_no_fault_of_the_code_is_a_line(error, line):
    found = cli._for_people(error)
    assert found.startswith(line) and "\n" not in found


@pytest.mark.parametrize("error", [
    ValueError("x"), OSError("no file is named"), jax.errors.JaxRuntimeError("INTERNAL: x"),
])
def test_what_may_be_one_keeps_its_traceback(error):
    assert cli._for_people(error) == ""


def parsed(file, argument="", text=None):
    if text is not None:
        file.write_text(text)
    return cli._ConfigFile().parse(f"{file}{argument}")


def test_a_config_comes_as_its_file_makes_it():
    found = parsed(ROOT / "tests" / "tiny.py")
    assert found.to_dict() == tiny.get_config().to_dict() and found.is_locked
    found = parsed(ROOT / "configs" / "llamagen.py", ":tiny")
    assert found.to_dict() == llamagen.get_config("tiny").to_dict()


@pytest.mark.parametrize(("text", "argument", "message"), [
    ("def get_config(:\n  return 3", "", r"line 1 has a syntax error \(invalid syntax\); give"),
    ("\nimport nowhere_at_all", "", r"line 2 fails \(ModuleNotFoundError: .*_all'\); give"),
    ("x = 1", "", "it has no get_config; give"),
    ("def get_config():\n  return {}['a']", "", r"line 2 fails \(KeyError: 'a'\); give"),
    ("def get_config():\n  return int('x')", "", r"line 2 fails \(ValueError: .*'x'\); give"),
    ("def get_config(size):\n  pass", "", r"it fails \(TypeError: .*'size'\); give"),
    ("def get_config():\n  return 3", "", "get_config gave 3, must be what ddjax.config.complete"),
    ("def get_config():\n  pass", "", "get_config gave None, must be"),
    ("def get_config():\n  pass", ":x", "this config takes nothing behind a colon"),
    ("a\0b", "", "null bytes"),
])
def test_a_config_that_is_none_is_one_line(tmp_path, text, argument, message):
    file = tmp_path / "c.py"
    with pytest.raises(UserError, match=rf"^--config={file}{argument}: .*{message}") as caught:
        parsed(file, argument, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["README.md", "docs/digits_samples.png"])
def test_a_file_of_something_else_is_no_config(name):
    with pytest.raises(UserError, match=rf"^--config={ROOT / name}: .*; give a file such as"):
        parsed(ROOT / name)


@pytest.mark.parametrize("name", ["nowhere.py", "configs", ""])
def test_a_config_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError, match=rf"^--config={name} cannot be read; give a file such as"):
        cli._ConfigFile().parse(name)


def test_wrong_keys_in_a_config_are_told_as_such(tmp_path):
    text = "from ddjax.config import complete\ndef get_config():\n  return complete({'sed': 1})"
    with pytest.raises(UserError, match=r"^config\.sed: unknown key; did you mean seed\?$"):
        parsed(tmp_path / "c.py", text=text)
