"""Runs that are killed, damaged or starved: they end the same, or say in one line what to do."""

import json
import shutil
import signal
import subprocess

import pytest

from ddjax.storage import model_folder
from tests.commands import call, run, start, wait_for
from tests.test_storage import flip_byte
from tests.test_train import losses

pytestmark = pytest.mark.slow
MODELS = ("tokenizer", "teacher", "distill")


def test_stopped_again_and_again_it_ends_the_same(finished, folder):
    """SIGKILL or SIGTERM in every stage; losses and weights are those of the quiet run."""
    whole, _ = finished
    root = folder / "stopped"
    kill, terminate = signal.SIGKILL, signal.SIGTERM
    for number, target in (
        (kill, "tokenizer/checkpoints/4"),
        (terminate, "pairs/pairs-00000.array_record"),
        (terminate, "distill/checkpoints/4"),
        (terminate, "evaluate/settings.json"),
        (kill, "evaluate/data/reconstruction"),
        (terminate, "evaluate/student_2step/set_0"),
    ):
        process = start(root)
        assert wait_for(process, root / target), process.communicate()[0]
        process.send_signal(number)
        output, _ = process.communicate()
        assert process.returncode == (143 if number == terminate else -kill), output
        assert ("stopped by SIGTERM" in output) == (number == terminate)
    code, output = run(root)
    assert code == 0, output
    for stage in MODELS:
        here, there = (model_folder.saved_digest(r / stage / "model") for r in (root, whole))
        assert here == there, stage
        wanted, found = losses(whole / stage), losses(root / stage)
        assert found.keys() == wanted.keys()
        for step, values in found.items():
            assert set(values) == set(wanted[step]), f"{stage}, step {step}"
    for shard in sorted((whole / "pairs").glob("*.array_record")):
        assert shard.read_bytes() == (root / "pairs" / shard.name).read_bytes()
    quiet, disturbed = (json.loads((r / "metrics.json").read_text())["rows"] for r in (whole, root))
    for a, b in zip(quiet, disturbed, strict=True):
        timing = {"seconds_per_image": None, "speedup": None}
        assert {**a, **timing} == {**b, **timing}


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(finished, folder):
    whole, _ = finished
    root = folder / "damaged"
    stages = "--config.stages=tokenizer"
    process = start(root, stages)
    assert wait_for(process, root / "tokenizer" / "checkpoints" / "8")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # As if it had been killed in time, should it have been quick enough to finish.
    shutil.rmtree(root / "tokenizer" / "model", ignore_errors=True)
    (root / "tokenizer" / "finished.json").unlink(missing_ok=True)
    data = root / "tokenizer" / "checkpoints" / "8" / "arrays"
    for path in data.rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            flip_byte(path, path.stat().st_size // 2)
    code, output = run(root, stages)
    assert code == 1
    assert f"checkpoint {data.parent} is damaged" in output
    code, output = run(root, stages, "--config.restore=previous")
    assert code == 0, output
    assert model_folder.saved_digest(root / "tokenizer" / "model") == model_folder.saved_digest(
        whole / "tokenizer" / "model"
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB, and how to make it larger."""

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)]
        return subprocess.run(command, capture_output=True).returncode

    if mount("size=100k"):
        pytest.skip("mounting a small file system needs root")
    yield tmp_path, lambda: mount("remount,size=100m")
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    finished, folder, small_disk
):
    disk, enlarge = small_disk
    stages = "--config.stages=tokenizer"
    code, output = run(disk / "run", stages)
    assert code == 1 and "Traceback" not in output
    last = output.replace("\r", "\n").rstrip().split("\n")[-1]
    assert last.startswith("error: the disk is full; nothing is lost."), output
    assert not (disk / "run" / "tokenizer" / "model").exists()
    assert enlarge() == 0
    code, output = run(disk / "run", stages)
    assert code == 0, output
    roots = (disk / "run", finished[0])
    digests = {model_folder.saved_digest(root / "tokenizer" / "model") for root in roots}
    assert len(digests) == 1


def test_a_damaged_shard_stops_the_next_stage_and_is_made_again(finished, folder):
    whole, _ = finished
    root = folder / "shard"
    shutil.copytree(whole, root)
    for folder_name in ("distill", "evaluate", "sample"):
        shutil.rmtree(root / folder_name)
    shard = root / "pairs" / "pairs-00001.array_record"
    flip_byte(shard, 400)
    code, output = run(root, "--config.stages=distill")
    assert code == 1
    assert "pairs-00001.array_record is damaged" in output and "Traceback" not in output
    assert f"python -m ddjax.pairs repair {root}" in output
    code, output = call("ddjax.pairs", "repair", root)
    assert code == 0, output
    assert "repaired: pairs-00001.array_record;" in output
    assert shard.read_bytes() == (whole / "pairs" / shard.name).read_bytes()
