"""SIGTERM and Ctrl-C, also at an awkward moment."""

import signal

import pytest

from tests.commands import Command

COMMAND = """
import signal, sys, time
from ddjax import cli
from ddjax.runtime import preemption

number = signal.Signals[sys.argv.pop()]
# A shell in the background has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

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

cli.run(vars()[sys.argv.pop()])
"""


@pytest.fixture
def run(tmp_path):
    """Exit code, standard output and standard error of one of the functions above."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)

    def run(name, number):
        command = Command(script, name, number, errors=True)
        output, errors = command.communicate(timeout=100)
        return command.returncode, output, errors

    return run


@pytest.mark.parametrize(("number", "named", "code"), [
    ("SIGTERM", "SIGTERM", 143), ("SIGINT", "Ctrl-C", 130),
])
@pytest.mark.parametrize("name", ["at_once", "within_a_finaliser", "deferred"])
def test_a_signal_is_one_line(run, name, number, named, code):
    """Within a finaliser Python passes over what is raised, so the notice would be lost."""
    told = f"stopped by {named}; start the same command again to go on\n"
    assert run(name, number) == (code, "saved\n" if name == "deferred" else "", told)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_at_once_and_one_that_is_ignored_does_nothing(run, number):
    assert run("twice", number)[0] == -signal.Signals[number]
    if number == "SIGTERM":
        assert run("as_in_a_notebook", number)[1] == "saved\nTrue\n"
    if number == "SIGINT":
        assert run("ignored", number)[:2] == (0, "saved\n")
