"""The launchers: what they would run, and what they do to processes; the tools are stand-ins."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

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


@pytest.fixture
def tools(tmp_path):
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


def start_local(tools, count, **env):
    """The script with its processes, as soon as they all run."""
    tools("python", PYTHON)
    script = subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), str(count), *ARGS], env={**tools.env, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell cannot trap what its parent ignored, as one in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    begin = time.monotonic()
    ended = run(tools, "local.sh", "3", *ARGS, MODE="fail", ONLY="1")
    assert ended.returncode == 7
    assert time.monotonic() - begin < 5
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


# Answers with the next of the states in $STATES, the last one again and again; none: no such TPU.
GCLOUD = record("gcloud") + r"""
[[ $4 == describe ]] || exit 0
n=$(cat "$LOG/asked" 2>/dev/null || echo 0); echo $((n + 1)) > "$LOG/asked"
states=($STATES); state=${states[n < ${#states[@]} ? n : ${#states[@]} - 1]}
[[ $state != none ]] || { echo "NOT_FOUND" >&2; exit 1; }
echo "$state"
"""
TPU_ARGS = ["--config=configs/digits.py", "--workdir=/mnt/ddjax/it's mine"]
TPU = {"NAME": "pod", "ZONE": "here", "TYPE": "v6e-16", "NFS": "10.0.0.2:/share", "WAIT": "0"}
QUEUE = ["compute", "tpus", "queued-resources"]
CREATE = [
    *QUEUE, "create", "pod", "--zone=here", "--node-id=pod", "--accelerator-type=v6e-16",
    "--runtime-version=v2-alpha-tpuv6e",
]
DELETE = [*QUEUE, "delete", "pod", "--zone=here", "--force", "--quiet"]


def tpu(tools, *args, states="ACTIVE", **env):
    """What came out, and the calls of gcloud."""
    tools("gcloud", GCLOUD)
    ended = run(tools, "tpu_pod.sh", *args, **{**TPU, "STATES": states, **env})
    return ended, called(tools, "gcloud")


def kinds(calls):
    """The calls in short; what goes to all workers by its first words."""
    return [
        " ".join(call[-1].removeprefix("--command=").split()[:2]) if call[3] == "ssh" else call[3]
        for call in calls
    ]


def test_tpu_create_waits_until_it_is_there(tools):
    ended, calls = tpu(tools, "create", states="WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    assert ended.returncode == 0
    assert calls[0] == [*CREATE, "--spot"]
    assert kinds(calls[1:]) == ["describe"] * 3


def test_tpu_create_on_demand_and_told_of_failure(tools):
    ended, calls = tpu(tools, "create", states="PROVISIONING FAILED", SPOT="")
    assert calls[0] == CREATE
    assert ended.returncode == 2
    assert "error: TPU pod is FAILED" in ended.stderr


def test_tpu_copy_needs_to_know_the_share(tools):
    ended, calls = tpu(tools, "copy", NFS="")
    assert ended.returncode == 2 and "NFS is ''" in ended.stderr and not calls


def test_tpu_copy_sends_what_ddjax_needs(tools):
    ended, (scp, ssh) = tpu(tools, "copy")
    assert ended.returncode == 0
    archive, target = scp[4:6]
    assert target == "pod:ddjax.tar.gz" and scp[-1] == "--worker=all"
    names = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True).stdout.split()
    assert {"ddjax/main.py", "configs/digits.py", "pyproject.toml", "README.md"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert ssh[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=here", "--worker=all"]
    assert "10.0.0.2:/share /mnt/ddjax" in ssh[-1]


def test_tpu_run_returns_while_ddjax_runs(tools, tmp_path):
    home = tmp_path / "home"
    for folder in ("ddjax", "venv/bin", "mount/logs"):
        (home / folder).mkdir(parents=True)
    # This returns only when nothing holds the output open that the script gave it.
    tools("gcloud", 'last=${!#}; cd "$HOME"; bash -c "${last#--command=}" 2>&1 | cat')
    tools("worker", PYTHON.replace("${!#}", "=0"))
    (home / "venv/bin/python").symlink_to(tmp_path / "bin" / "worker")
    env = {**TPU, "HOME": str(home), "MOUNT": str(home / "mount"), "MODE": "wait"}
    args = ["--config=configs/digits.py", f"--workdir={home}/mount/it's mine"]
    ended = run(tools, "tpu_pod.sh", "run", *args, **env)
    assert ended.returncode == 0
    wait_until(lambda: (tools.log / "args.0").exists())
    worker = int((tools.log / "pids").read_text())
    assert os.getsid(worker) != os.getsid(0)
    os.kill(worker, signal.SIGTERM)
    got = (tools.log / "args.0").read_text().splitlines()
    assert got == ["-u", "-m", "ddjax.main", *args, "--config.hosts.coordinator=auto"]
    log, = (home / "mount/logs").iterdir()
    assert log.name.startswith("pod-") and "out of 0" in log.read_text()
    assert "tail -F" in ended.stdout


def test_tpu_resume_starts_again_what_is_there_or_was_taken_away(tools):
    again = ["scp", "set -e", "cd ddjax"]
    for states, before in [
        ("ACTIVE", ["describe", "pkill -TERM"]),
        ("none ACTIVE", ["describe", "create", "describe"]),
        ("SUSPENDED ACTIVE", ["describe", "delete", "create", "describe"]),
        ("PROVISIONING PROVISIONING ACTIVE", ["describe"] * 3),
    ]:
        for file in tools.log.iterdir():
            file.unlink()
        ended, calls = tpu(tools, "resume", *TPU_ARGS, states=states)
        assert ended.returncode == 0, ended.stderr
        assert kinds(calls) == [*before, *again], states


def test_tpu_delete_deletes_the_tpu_and_nothing_else(tools):
    assert tpu(tools, "delete")[1] == [DELETE]


@pytest.mark.parametrize("command", ["create", "copy", "delete", "run"])
def test_tpu_dry_run_prints_what_makes_the_same_calls(tools, command):
    args = TPU_ARGS if command == "run" else []
    ended, calls = tpu(tools, "--dry-run", command, *args)
    assert ended.returncode == 0 and not calls
    env = {**tools.env, "STATES": "ACTIVE"}
    subprocess.run(["bash", "-c", ended.stdout], env=env, cwd=tools.log, check=True)
    printed = called(tools, "gcloud")
    assert printed
    (tools.log / "gcloud").unlink()
    assert tpu(tools, command, *args)[1] == printed


def test_tpu_dry_run_of_resume_tells_the_cases(tools):
    ended, calls = tpu(tools, "--dry-run", "resume", *TPU_ARGS)
    assert ended.returncode == 0 and not calls
    for part in ("describe pod", "pkill -TERM", "delete pod", "create pod", "scp ", "setsid nohup"):
        assert part in ended.stdout


@pytest.mark.parametrize("args", [[], ["all"], ["--dry-run"], ["run"], ["resume", *ARGS]])
def test_tpu_refuses_what_it_does_not_understand(tools, args):
    ended, calls = tpu(tools, *args)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and not calls


def test_gke_jobset_is_complete():
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completions"] == job["parallelism"] and job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [143]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 120
    selector = pod["nodeSelector"]
    assert "cloud.google.com/gke-tpu-accelerator" in selector
    (container,) = pod["containers"]
    tpus = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == tpus
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    assert tpus * job["parallelism"] == rows * columns
    assert "--config.hosts.coordinator=auto" in container["args"]
    mount, = container["volumeMounts"]
    assert f"--workdir={mount['mountPath']}/" in " ".join(container["args"])
    volume, = pod["volumes"]
    assert volume["name"] == mount["name"]
    storage, claim = yaml.safe_load_all((LAUNCH / "gke_workdir.yaml").read_text())
    assert claim["metadata"]["name"] == volume["persistentVolumeClaim"]["claimName"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == storage["metadata"]["name"]
    assert storage["reclaimPolicy"] == "Retain"
