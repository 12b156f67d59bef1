"""What a user of published weights does: convert, make pairs, distil, evaluate, draw."""

import shutil

import numpy as np
import pytest

from tests.commands import call, run
from tests.golden_checkpoints import checkpoint

pytestmark = pytest.mark.slow


def convert(folder, model, name, *flags, source=None):
    code, output = call(
        "conversion/torch_to_flax.py", f"--model={model}",
        f"--checkpoint={source or checkpoint(name)}", f"--output={folder / name}", *flags,
    )
    assert code == 0, output
    return folder / name


@pytest.fixture(scope="module")
def llamagen(folder):
    return [
        f"--config.teacher.weights={convert(folder, 'llamagen', 'llamagen_gpt_c2i', '--grid=4')}",
        f"--config.tokenizer.weights={convert(folder, 'llamagen_tokenizer', 'llamagen_vq')}",
    ]


@pytest.fixture(scope="module")
def var(folder):
    """The tokenizer's file, of which the teacher needs a part, lies beside the teacher's."""
    scales, downloads = "--scales=1,2,3,4", folder / "downloads"
    downloads.mkdir()
    source = shutil.copy(checkpoint("var"), downloads)
    shutil.copy(checkpoint("var_vqvae"), downloads / "vae_ch160v4096z32.pth")
    teacher = convert(folder, "var", "var", scales, source=source)
    return [
        f"--config.teacher.weights={teacher}",
        f"--config.tokenizer.weights={convert(folder, 'var_tokenizer', 'var_vqvae', scales)}",
    ]


@pytest.mark.parametrize(("family", "perceptual", "methods"), [
    ("llamagen", 1.0, "teacher_ar,student_2step"), ("var", 0.0, "refine_1"),
])
def test_from_converted_weights_to_a_report(folder, family, perceptual, methods, request):
    code, output = run(
        folder / family, *request.getfixturevalue(family),
        f"--config.evaluate.methods={methods}",
        "--config.distill.train.steps=3",
        f"--config.distill.perceptual={perceptual}", "--config.student.split=4",
        config=f"configs/{family}.py:tiny",
    )
    assert code == 0, output
    report = (folder / family / "report.md").read_text()
    assert all(f"| {method} |" in report for method in methods.split(","))
    assert "There are no data to compare with" in report
    drawn = np.load(next((folder / family).glob("sample/*/images.npz")))
    assert drawn["images"].shape == (10, 64, 64, 3) and np.isfinite(drawn["images"]).all()


def test_a_released_student_draws_without_its_teacher(folder, llamagen):
    student = convert(folder, "llamagen_student", "dd_llamagen", "--ema", "--grid=4")
    code, output = run(
        folder / "released", llamagen[1], f"--config.student.weights={student}",
        "--config.stages=sample", "--config.sample.labels=2,3,6",
        config="configs/llamagen.py:tiny",
    )
    assert code == 0, output
    drawn = np.load(next((folder / "released").glob("sample/*/images.npz")))
    assert drawn["images"].shape == (3, 64, 64, 3)


def test_weights_that_are_not_there_are_told_before_anything_runs(folder):
    code, output = run(folder / "none", config="configs/llamagen.py:B")
    assert code == 1 and not (folder / "none" / "pairs").exists()
    assert ("vq_ds16_c2i is missing; give the folder of a model, or make it with: python "
            "conversion/torch_to_flax.py --model=llamagen_tokenizer") in output
    code, output = run(folder / "none", config="configs/llamagen.py:XS")
    assert code == 1 and "unknown size; known are B, L, XL" in output
    assert "Traceback" not in output
