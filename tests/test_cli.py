"""Errors as a user sees them; whole commands are run in test_main."""

import errno

import jax
import pytest

from ddjax import cli


@pytest.mark.parametrize(("error", "line"), [
    (OSError(errno.ENOSPC, "No space left on device", "/w/x"), "the disk is full; nothing"),
    (PermissionError(errno.EACCES, "Permission denied", "/w/x"), "/w/x: Permission denied"),
    (OSError(errno.EROFS, "Read-only file system", "/w/x"), "/w/x: Read-only file system"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
     "the device has not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.)"),
])
def test_what_is_no_fault_of_the_code_is_a_line(error, line):
    found = cli._for_people(error)
    assert found.startswith(line) and "\n" not in found


@pytest.mark.parametrize("error", [
    ValueError("x"), OSError("no file is named"), jax.errors.JaxRuntimeError("INTERNAL: x"),
])
def test_what_may_be_one_keeps_its_traceback(error):
    assert cli._for_people(error) == ""
