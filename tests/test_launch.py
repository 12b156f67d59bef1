"""The launchers of one machine and of SLURM: what they would run, and what they do to processes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch_tools import (
    ARGS,
    LAUNCH,
    PYTHON,
    assert_none_is_left,
    called,
    hear,
    make_tools,
    record,
    run,
    start_local,
    terms,
    wait_until,
)


@pytest.fixture
def tools(tmp_path):
    return make_tools(tmp_path)


@pytest.mark.parametrize("script", ["local.sh", "tpu_pod.sh", "slurm.sbatch"])
def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


def test_local_runs_all_and_prefixes_all_but_the_first(tools):
    tools("python", PYTHON)
    ended = run(tools, "local.sh", "3", *ARGS, PYTHONPATH="/elsewhere")
    assert ended.returncode == 0
    assert sorted(ended.stdout.splitlines()) == ["[1] out of 1", "[2] out of 2", "out of 0"]
    assert sorted(ended.stderr.splitlines()) == ["[1] err of 1", "[2] err of 2", "err of 0"]
    ports = set()
    for index in range(3):
        args = (tools.log / f"args.{index}").read_text().splitlines()
        assert args[:4] == ["-m", "ddjax.main", *ARGS]
        address, port = args[4].rsplit(":", 1)
        assert address == "--config.hosts.coordinator=localhost"
        assert args[5:] == ["--config.hosts.count=3", f"--config.hosts.index={index}"]
        ports.add(port)
    assert len(ports) == 1
    assert_none_is_left(tools)


@pytest.mark.parametrize("before", ["--dry-run 2", "2 --dry-run", "--dry-run 2 --"])
def test_local_dry_run_prints_what_would_run(tools, before):
    tools("python", record("python"))
    printed = run(tools, "local.sh", *before.split(), *ARGS).stdout.splitlines()
    for index, line in enumerate(printed):
        path, *command, ampersand = shlex.split(line)
        assert path.split(":")[0] == f"PYTHONPATH={LAUNCH.parent}"
        assert command[:5] == ["python", "-m", "ddjax.main", *ARGS]
        assert command[-2:] == ["--config.hosts.count=2", f"--config.hosts.index={index}"]
        assert ampersand == "&"
    assert len(printed) == 2
    assert not called(tools, "python")


@pytest.mark.parametrize("args", [["x", *ARGS], ["0", *ARGS], ARGS, ["2"], []])
def test_local_refuses_what_it_does_not_understand(tools, args):
    ended = run(tools, "local.sh", *args)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_local_ends_the_others_when_one_fails(tools):
    tools("python", PYTHON)
    ended = run(tools, "local.sh", "3", *ARGS, MODE="fail", ONLY="1")
    assert ended.returncode == 7
    assert "process 1 ended with code 7" in ended.stderr
    assert (terms(tools, 0), terms(tools, 2)) == (1, 1)
    assert_none_is_left(tools)


def test_local_kills_who_does_not_end(tools):
    script = start_local(tools, 2, MODE="deaf", ONLY="1", GRACE="1")
    first = (tools.log / "pids").read_text().split()
    zero = next(pid for pid in first if children_index(pid) == 0)
    os.kill(int(zero), signal.SIGKILL)
    assert script.wait(timeout=20) == 137
    assert_none_is_left(tools)


def children_index(pid):
    return int(Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_a_signal_on_as_sigterm(tools, number):
    script = start_local(tools, 3, MODE="wait")
    os.killpg(script.pid, number)  # to its group, as Ctrl-C and `timeout` do it
    assert script.wait(timeout=20) == 143
    assert [terms(tools, index) for index in range(3)] == [1, 1, 1]  # a second would be too much
    assert_none_is_left(tools)


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.mark.parametrize("shell", [[], ["bash", "--norc", "-ic", '"$@"; exit $?', "shell"]])
def test_local_hears_ctrl_c_of_a_terminal(tools, shell):
    """Which goes to whatever has the foreground, also under a shell that somebody types into."""
    tools("python", PYTHON)
    command = [*shell, "bash", str(LAUNCH / "local.sh"), "2", *ARGS]
    script = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *command], env={**tools.env, "MODE": "on"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=hear,
    )
    wait_until(lambda: all((tools.log / f"args.{i}").exists() for i in range(2)))
    time.sleep(0.5)
    script.stdin.write(b"\x03")
    script.stdin.flush()
    assert script.wait(timeout=20) == 143
    assert [terms(tools, i) for i in range(2)] == [1, 1]
    assert_none_is_left(tools)


def test_local_waits_for_who_still_saves_and_passes_a_second_signal_on(tools):
    script = start_local(tools, 2, MODE="slow", ONLY="1", GRACE="0")
    script.send_signal(signal.SIGTERM)
    wait_until(lambda: terms(tools, 0) and terms(tools, 1))
    time.sleep(0.6)
    assert script.poll() is None
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 143
    assert_none_is_left(tools)


SRUN_COMMAND = ["python", "-u", "-m", "ddjax.main", *ARGS, "--config.hosts.coordinator=auto"]


def test_slurm_dry_run_prints_what_would_run(tools):
    command, requeue = run(tools, "slurm.sbatch", "--dry-run", *ARGS).stdout.splitlines()
    command = shlex.split(command)
    assert command[:2] == ["srun", "--kill-on-bad-exit=1"]
    assert command[-len(SRUN_COMMAND):] == SRUN_COMMAND
    assert requeue.startswith("scontrol requeue")


@pytest.mark.parametrize(("code", "ends_with"), [(0, 0), (143, 143), (1, 255), (137, 255)])
def test_slurm_goes_back_to_the_queue_after_143_only(tools, code, ends_with):
    tools("srun", record("srun") + 'while [[ $1 != bash ]]; do shift; done; exec "$@"')
    tools("scontrol", record("scontrol"))
    tools("python", record("python") + f"exit {code}")
    ended = run(tools, "slurm.sbatch", *ARGS, SLURM_JOB_ID="17")
    assert ended.returncode == ends_with  # 255 is more than 143: srun returns the highest
    assert called(tools, "scontrol") == ([["requeue", "17"]] if code == 143 else [])
    printed = run(tools, "slurm.sbatch", "--dry-run", *ARGS).stdout.splitlines()[0]
    assert [["srun", *call] for call in called(tools, "srun")] == [shlex.split(printed)]
    assert called(tools, "python") == [SRUN_COMMAND[1:]]


def test_slurm_lets_a_task_save_after_sigterm(tools):
    tools("srun", 'while [[ $1 != bash ]]; do shift; done; exec setsid "$@"')
    tools("scontrol", record("scontrol"))
    tools("python", PYTHON.replace("${!#}", "=0"))
    script = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sbatch"), *ARGS],
        env={**tools.env, "SLURM_JOB_ID": "17", "MODE": "wait"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: (tools.log / "args.0").exists())
    time.sleep(0.2)
    task = int((tools.log / "pids").read_text())
    os.killpg(os.getpgid(task), signal.SIGTERM)  # all of the task, as SLURM does it
    assert script.wait(timeout=20) == 143
    assert terms(tools, 0) == 1
    assert called(tools, "scontrol") == [["requeue", "17"]]


def test_slurm_asks_for_a_signal_to_the_tasks_and_one_task_per_gpu():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines
        if line.startswith("#SBATCH")
    )
    assert options["signal"].startswith("TERM@")  # not B:, which spares the tasks
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "requeue" in options and options["open-mode"] == "append"


def test_slurm_refuses_to_run_outside_a_job(tools):
    env = {"SLURM_JOB_ID": ""}
    ended = run(tools, "slurm.sbatch", *ARGS, **env)
    assert ended.returncode == 2 and "sbatch launch/slurm.sbatch" in ended.stderr
