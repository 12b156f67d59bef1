"""SIGTERM and Ctrl-C, also at an awkward moment."""

import signal
import subprocess
import sys

import pytest

COMMAND = """
import signal, sys, time
from ddjax import cli
from ddjax.runtime import preemption

number = signal.Signals[sys.argv.pop()]

class Finalised:
    def __del__(self):
        signal.raise_signal(number)
        time.sleep(0)

def within_a_finaliser():
    Finalised()
    time.sleep(60)

def at_once():
    signal.raise_signal(number)

def deferred():
    with preemption.deferred():
        signal.raise_signal(number)
        print("saved")

def twice():
    with preemption.deferred():
        signal.raise_signal(number)
        signal.raise_signal(number)

def ignored():
    signal.signal(number, signal.SIG_IGN)
    preemption.watch()
    deferred()

def as_in_a_notebook():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        deferred()
    except preemption.Preempted:
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

cli.run({})
"""


def run(name, number):
    # A shell in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.run(
            [sys.executable, "-c", COMMAND.format(name), number], capture_output=True, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "named", "code"), [
    ("SIGTERM", "SIGTERM", 143), ("SIGINT", "Ctrl-C", 130),
])
@pytest.mark.parametrize("name", ["at_once", "within_a_finaliser", "deferred"])
def test_a_signal_is_one_line(name, number, named, code):
    """Within a finaliser Python passes over what is raised, so the notice would be lost."""
    done = run(name, number)
    assert done.returncode == code, done.stderr
    assert done.stderr == f"stopped by {named}; start the same command again to go on\n"
    assert done.stdout == ("saved\n" if name == "deferred" else "")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_at_once_and_one_that_is_ignored_does_nothing(number):
    assert run("twice", number).returncode == -signal.Signals[number]
    if number == "SIGTERM":
        assert run("as_in_a_notebook", number).stdout == "saved\nTrue\n"
    if number == "SIGINT":
        assert (run("ignored", number).returncode, run("ignored", number).stdout) == (0, "saved\n")
