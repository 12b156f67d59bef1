"""Commands as a user types them, on the job of `tests.tiny`: each in a process of its own.

It is forked from one that has imported the libraries (`tests.libraries`), which takes longer than
most of what is asked of a command. `launch/local.sh` and the demo are started as from a shell.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.libraries"])


class Command:
    """A process with what the tests use of `subprocess.Popen`.

    Args:
      target: a module, or a script as a path from the root of the repository.
      arguments: the words behind it.
      errors: whether standard error is kept apart.
      environment: beside this process's. JAX has read its own variables before.
    """

    def __init__(self, target, *arguments, errors=False, environment=()):
        self._files = [tempfile.NamedTemporaryFile("r") for _ in range(1 + errors)]  # noqa: SIM115
        names = [file.name for file in self._files]
        words = [str(word) for word in (target, *arguments)]
        given = words, names, {**os.environ, **dict(environment)}
        self._process = _FORKS.Process(target=_become, args=given, daemon=True)
        self._process.start()

    def poll(self):
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return (*(file.read() for file in self._files), None)[:2]


def _become(words, outputs, environment):
    for number, name in ((1, outputs[0]), (2, outputs[-1])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = words
    if words[0].endswith(".py"):
        sys.path.insert(0, str(Path(words[0]).parent.absolute()))
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.path.insert(0, str(ROOT))
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def start(workdir, *overrides, module="main", config="tests/tiny.py"):
    words = [f"ddjax.{module}", f"--config={config}", *overrides]
    if module != "benchmark":
        words.append(f"--workdir={workdir}")
    return Command(*words)


def call(target, *arguments):
    """Exit code and output."""
    command = Command(target, *arguments)
    output, _ = command.communicate(timeout=400)
    return command.returncode, output


def run(workdir, *overrides, **options):
    """Exit code and output."""
    command = start(workdir, *overrides, **options)
    output, _ = command.communicate(timeout=400)
    return command.returncode, output


def wait_for(process, path, seconds=200):
    """Until a file or folder is there; False if the process ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if path.exists():
            return True
        time.sleep(0.005)
    return path.exists()
