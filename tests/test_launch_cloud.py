"""The launchers of clouds: what they would run; gcloud is a stand-in."""

import os
import signal
import subprocess

import pytest
import yaml

from tests.launch_tools import ARGS, LAUNCH, PYTHON, called, make_tools, record, run, wait_until


@pytest.fixture
def tools(tmp_path):
    return make_tools(tmp_path)


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


def test_tpu_dry_run_may_stand_anywhere(tools):
    for words in (["create", "--dry-run"], ["run", *TPU_ARGS, "--dry-run"]):
        ended, calls = tpu(tools, *words)
        assert (ended.returncode, calls) == (0, []) and "gcloud" in ended.stdout
    ended, calls = tpu(tools, "delete", "other")
    assert (ended.returncode, calls) == (2, []) and "takes no arguments, and got" in ended.stderr


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
