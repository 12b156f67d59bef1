"""Commands as a user types them: in processes of their own, on the job of `tests.tiny`."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(workdir, *overrides, module="main", config="tests/tiny.py"):
    command = [sys.executable, "-m", f"ddjax.{module}", f"--config={config}", *overrides]
    if module != "benchmark":
        command.append(f"--workdir={workdir}")
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(workdir, *overrides, **options):
    """Exit code and output."""
    process = start(workdir, *overrides, **options)
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


def wait_for(process, path, seconds=200):
    """Until a file or folder is there; False if the process ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if path.exists():
            return True
        time.sleep(0.005)
    return path.exists()
