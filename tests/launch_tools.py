"""What the tests of the launchers share: stand-ins on PATH, and what they wrote down."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"
ARGS = ["--config=configs/digits.py", "--workdir=my runs/it's"]

# Says who it is and does as MODE says, if ONLY names it or names nobody. 0.1 s at a time, since
# bash sees a signal only between two commands.
PYTHON = r"""
index=${!#}; index=${index##*=}
echo $$ >> "$LOG/pids"
trap 'echo TERM >> "$LOG/term.$index"; exit 143' TERM
case ${ONLY-$index}/${MODE-end} in
  $index/fail) sleep 0.2; exit 7 ;;
  $index/slow) trap 'echo TERM >> "$LOG/term.$index"; trap - TERM' TERM ;;
  $index/deaf) trap '' TERM ;;
esac
printf '%s\n' "$@" > "$LOG/args.$index"
echo "out of $index"; echo "err of $index" >&2
[[ ${MODE-end} == end ]] && exit
for ((i = 0; i < 300; i++)); do sleep 0.1; done
"""


def make_tools(tmp_path):
    """A function that puts a bash script on PATH under a name; LOG is a folder for what it saw."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "log").mkdir()

    def put(name, script):
        file = tmp_path / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{script}")
        file.chmod(0o755)

    put.log = tmp_path / "log"
    put.env = {
        **os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "LOG": str(put.log),
        "TMPDIR": str(tmp_path),
    }
    return put


def run(tools, script, *args, **env):
    return subprocess.run(
        ["bash", str(LAUNCH / script), *args], env={**tools.env, **env}, cwd=tools.log,
        capture_output=True, text=True, timeout=60,
    )


def hear():
    """A shell cannot trap what its parent ignored, as one in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_local(tools, count, **env):
    """The script with its processes, as soon as they all run."""
    tools("python", PYTHON)
    script = subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), str(count), *ARGS], env={**tools.env, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=hear,
    )
    wait_until(lambda: all((tools.log / f"args.{i}").exists() for i in range(count)))
    time.sleep(0.2)
    return script


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def terms(tools, index):
    file = tools.log / f"term.{index}"
    return file.read_text().count("TERM") if file.exists() else 0


def assert_none_is_left(tools):
    for pid in (tools.log / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def record(name):
    """A line of bash that writes down how it was called."""
    return f"""printf '%s\\0' "$@" "" >> "$LOG/{name}"\n"""


def called(tools, name):
    """The calls that `record` wrote down, each a list of arguments."""
    file = tools.log / name
    text = file.read_text() if file.exists() else ""
    return [call.split("\0") for call in text.split("\0\0")[:-1]]
