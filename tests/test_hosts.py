"""Two real processes against one: the same pairs, losses and figures, stopped on the way."""

import json
import re
import signal
import subprocess

import numpy as np
import pytest

from ddjax.storage import model_folder
from tests.commands import ROOT, run, wait_for
from tests.test_train import losses

pytestmark = pytest.mark.slow
# Random models, so that the stages are those that several hosts are for.
JOB = (
    *(f"--config.{part}.weights=random" for part in
      ("teacher", "tokenizer", "evaluate.features")),
    "--config.distill.perceptual=0.0", "--config.student.split=16",
    "--config.stages=pairs,distill,evaluate,sample",
    "--config.distill.train.steps=20",
    "--config.evaluate.methods=student_1step,refine_1,onestep_class",
    "--config.evaluate.sets=1",
)


def start_two(workdir, *overrides):
    command = [ROOT / "launch" / "local.sh", "2", "--config=tests/tiny.py", *JOB, *overrides,
               f"--workdir={workdir}"]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Workdirs of one process, and of two that were told to stop amid the training."""
    folder = tmp_path_factory.mktemp("hosts")
    code, output = run(folder / "one", *JOB)
    assert code == 0, output
    two = start_two(folder / "two")
    assert wait_for(two, folder / "two" / "distill" / "checkpoints" / "8"), two.communicate()[0]
    two.send_signal(signal.SIGTERM)
    output, _ = two.communicate(timeout=100)
    assert two.returncode == 143, output
    saved = {int(path.name) for path in (folder / "two" / "distill" / "checkpoints").iterdir()}
    assert max(saved) < 20
    two = start_two(folder / "two")
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    assert output.count("distill    20 steps on 48 pairs") == 1  # told by the first process alone
    return folder / "one", folder / "two"


def test_pairs_are_bit_equal(roots):
    one, two = (sorted((root / "pairs").glob("*")) for root in roots)
    assert [path.name for path in one] == [path.name for path in two]
    for a, b in zip(one, two, strict=True):
        if a.name.endswith("record"):
            assert a.read_bytes() == b.read_bytes(), a.name
    manifests = [json.loads((root / "pairs" / "manifest.json").read_text()) for root in roots]
    assert manifests[0] == manifests[1] and len(manifests[0]["shards"]) == 3


def test_losses_and_weights_are_those_of_one_process(roots):
    wanted, found = (losses(root / "distill") for root in roots)
    assert sorted(wanted) == sorted(found) == list(range(1, 21))
    for step in wanted:
        for value in found[step]:
            np.testing.assert_allclose(value, wanted[step][0], rtol=1e-5, err_msg=str(step))
    _, _, wanted = model_folder.read(roots[0] / "distill" / "model")
    _, _, found = model_folder.read(roots[1] / "distill" / "model")
    for name, array in wanted.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name], array, atol=1e-4 * scale, err_msg=name)


def test_the_report_is_that_of_one_process(roots):
    wanted, found = (json.loads((root / "metrics.json").read_text())["rows"] for root in roots)
    for a, b in zip(wanted, found, strict=True):
        for key in a.keys() - {"seconds_per_image", "speedup"}:
            wanted = pytest.approx(a[key], rel=1e-3) if isinstance(a[key], float) else a[key]
            assert b[key] == wanted, (a["method"], key)
    assert (roots[1] / "samples.png").exists()
    nearest = [re.search(r"Here they are (\S+) to (\S+); held-out images are (\S+) away",
                         (root / "report.md").read_text()).groups() for root in roots]
    one, two = (list(map(float, distances)) for distances in nearest)
    assert two == pytest.approx(one, rel=1e-2)


