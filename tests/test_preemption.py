"""SIGTERM at an awkward moment."""

import subprocess
import sys

from ddjax import preemption

COMMAND = """
import signal, time
from ddjax import cli

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0)

def command():
    Finalised()
    time.sleep(60)

cli.run(command)
"""


def test_sigterm_within_a_finaliser_ends_the_run_all_the_same():
    """Python passes over what is raised there, so the notice would be lost."""
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True)
    assert done.returncode == preemption.EXIT_CODE, done.stderr
    assert done.stderr == "stopped by SIGTERM; the same command goes on from here\n"
