"""The pipeline: what it draws, from a run and from folders, and what it refuses."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import ddjax
from ddjax.config import from_dict
from ddjax.method import ways
from ddjax.method.guidance import Guidance, Guided
from ddjax.models import MODELS
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError
from ddjax.stages import pair_generation, sample
from ddjax.storage import model_folder, run_models
from tests import tiny

ROOT = Path(__file__).parent.parent


def config():
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    tree["guidance"] = {"scale": 1.5, "top_k": 9}
    return from_dict(tree)


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_config(config(), Path("nowhere"), batch=4)


def test_images_ids_and_titles(pipe):
    out = pipe(labels=[3, 3, 7], method="student_2step", seed=5)
    assert out.images.shape == (3, 8, 8, 1) and out.images.min() >= 0 and out.images.max() <= 1
    assert out.ids.shape == (3, 16) and out.titles == ["3", "3", "7"] and out.seconds > 0
    assert (out.ids[0] != out.ids[1]).any() and out.log_probs is None
    assert [image.size for image in out.pil()] == [(8, 8)] * 3
    again = pipe(labels=[3, 3, 7], method="student_2step", seed=5)
    np.testing.assert_array_equal(again.images, out.images)
    assert (pipe(labels=[3, 3, 7], method="student_2step", seed=6).ids != out.ids).any()


@pytest.mark.parametrize("method", ["teacher_ar", "student_1step"])
def test_an_image_does_not_depend_on_how_many_are_drawn(pipe, method):
    """Six in batches of four; each depends on its place, label and seed alone."""
    six = pipe(labels=[1, 2, 3, 4, 5, 6], method=method)
    two = pipe(labels=[1, 2], method=method)
    np.testing.assert_array_equal(two.ids, six.ids[:2])


def test_each_method_is_compiled_once(pipe):
    own = Pipeline.from_config(config(), Path("nowhere"), batch=2)
    for labels in ([1, 2, 3, 4, 5], [3, 4], [1, 1, 1]):
        own(labels=labels, method="student_1step")
    assert len(own._compiled) == 1


def test_it_draws_what_the_stage_sample_draws(pipe, tmp_path):
    asked = dataclasses.replace(config().sample, labels=(3, 1), method="refine_1")
    run = dataclasses.replace(config(), sample=asked, seed=5)
    sample.run(run, tmp_path / "sample" / "x")
    drawn = np.load(tmp_path / "sample" / "x" / "images.npz")
    out = pipe(labels=[3, 1], method="refine_1", seed=5)
    np.testing.assert_array_equal(out.ids, drawn["ids"])
    np.testing.assert_allclose(out.images, np.clip((drawn["images"] + 1) / 2, 0, 1), atol=1e-6)


def test_noise_of_ones_own(pipe):
    out = pipe(labels=[3, 4], method="teacher_flow", seed=5)
    noise = pipe.noise(2, seed=5)
    np.testing.assert_array_equal(
        pipe(labels=[3, 4], method="teacher_flow", noise=noise).ids, out.ids
    )
    swapped = pipe(labels=[4, 3], method="teacher_flow", noise=noise[::-1])
    np.testing.assert_array_equal(swapped.ids[::-1], out.ids)


def test_noise_is_not_that_of_the_pairs(pipe):
    """With it a student would be seen at what it has learnt by heart."""
    learnt = pair_generation.noise_of(5, np.arange(3), 16, 4)
    noise = pipe.noise(3, seed=5)
    assert noise.shape == learnt.shape and (noise != learnt).all()


def test_ids_to_start_from(pipe):
    exact = pipe(labels=[3, 4], method="teacher_flow", seed=5)
    for method in ("teacher_flow", "refine_1"):
        ids = exact.ids[:, :7] if method == "teacher_flow" else exact.ids
        out = pipe(labels=[3, 4], method=method, seed=5, ids=ids)
        np.testing.assert_array_equal(out.ids, exact.ids)


def test_log_probs_are_the_teachers(pipe):
    """Of the guided and truncated teacher, given the ids before each."""
    out = pipe(labels=[3, 4], method="teacher_ar", seed=5, log_probs=True)
    teacher = run_models.load(config(), Path("nowhere"), "teacher")
    wanted = Guided(teacher, Guidance(scale=1.5, top_k=9)).log_probs(out.ids, np.array([3, 4]))
    np.testing.assert_allclose(out.log_probs, wanted, atol=1e-4)
    assert (np.isfinite(out.log_probs).sum(-1) == 9).all()


def test_a_trajectory_ends_in_the_image(pipe):
    """X_0 is the decoded noise, X_G the image that is drawn; each X_k has k groups of it."""
    found = pipe.trajectory(labels=[3, 4], seed=5)
    assert found.images.shape == (17, 2, 8, 8, 1) and found.k == tuple(range(17))
    drawn = pipe(labels=[3, 4], method="teacher_flow", seed=5)
    np.testing.assert_array_equal(found.ids, drawn.ids)
    np.testing.assert_allclose(found.images[-1], drawn.images, atol=1e-5)
    tokenizer = run_models.load(config(), Path("nowhere"), "tokenizer")
    x, codes = pipe.noise(2, seed=5).copy(), np.asarray(tokenizer.codebook)
    for k in (0, 6):
        x[:, :k] = codes[drawn.ids[:, :k]]
        wanted = np.clip((tokenizer.decode(x) + 1) / 2, 0, 1)
        np.testing.assert_allclose(found.images[k], wanted, atol=1e-5)
    few = pipe.trajectory(labels=[3, 4], method="student_1step", steps=(0, 16))
    assert few.images.shape[0] == 2


@pytest.mark.parametrize(("call", "message"), [
    ({}, r"conditions: got none, give labels=\[\.\.\.\]"),
    ({"labels": []}, r"conditions: got none, give labels"),
    ({"labels": [10]}, r"labels: got 10, must be in 0\.\.9"),
    ({"captions": [1]}, r"conditions: got captions, give labels"),
    ({"labels": [1], "method": "magic"}, "'magic' is unknown; known are"),
    ({"labels": [1], "method": "student_3step"}, r"student_3step: student\.steps has 2 steps"),
    ({"labels": [1], "method": "skip_4", "log_probs": True}, "skip_4: not all of its ids"),
    ({"labels": [1], "method": "teacher_involved_2_6", "ids": np.zeros((1, 1), int)},
     "teacher_involved_2_6 cannot start from ids"),
    ({"labels": [1], "ids": np.zeros((2, 1), int)}, r"ids: got int64\[2, 1\], must be int"),
    ({"labels": [1], "ids": np.full((1, 1), 16)}, r"ids: got 16\.\.16, must be in 0\.\.15"),
    ({"labels": [1], "ids": np.zeros((1, 17), int)}, r"ids: 17 tokens are no whole groups"),
    ({"labels": [1], "noise": np.zeros((1, 4, 4))}, r"noise: got \[1, 4, 4\], must be"),
    ({"labels": [1], "noise": np.full((1, 16, 4), np.nan)}, "finite numbers"),
])
def test_what_it_cannot_do_is_one_line(pipe, call, message):
    with pytest.raises(UserError, match=message) as caught:
        pipe(**call)
    assert "\n" not in str(caught.value)


def test_trajectories_are_of_what_maps_noise(pipe):
    with pytest.raises(UserError, match="teacher_ar does not map noise; trajectories are of teach"):
        pipe.trajectory(labels=[1], method="teacher_ar")


def test_models_from_folders(pipe, tmp_path):
    for role in ("tokenizer", "teacher", "student"):
        model = run_models.load(config(), Path("nowhere"), role)
        kind = run_models.section(config(), role).kind
        model_folder.save(tmp_path / role, kind, model)
    folders = {role: tmp_path / role for role in ("student", "teacher")}
    own = Pipeline.from_folders(
        tmp_path / "tokenizer", **folders, split=10, guidance=Guidance(scale=1.5, top_k=9)
    )
    for method in ("student_1step", "refine_1"):
        wanted = pipe(labels=[3, 4], method=method).ids
        np.testing.assert_array_equal(own(labels=[3, 4], method=method).ids, wanted)
    alone = Pipeline.from_folders(tmp_path / "tokenizer", student=tmp_path / "student")
    alone(labels=[3], method="student_1step")
    with pytest.raises(UserError, match="this method needs a teacher, which the pipeline was not"):
        alone(labels=[3], method="refine_1")
    with pytest.raises(UserError, match=r"give student=FOLDER, teacher=FOLDER or both"):
        Pipeline.from_folders(tmp_path / "tokenizer")


def test_folders_of_a_model_of_captions_need_conditions(tmp_path):
    """There are no classes to ask for, nor captions."""
    tree = importlib.import_module("configs.llamagen_t2i").get_config("tiny").to_dict()
    teacher = from_dict(tree).teacher
    model = MODELS[teacher.kind](teacher.model, rngs=nnx.Rngs(0))
    model_folder.save(tmp_path / "teacher", teacher.kind, model)
    with pytest.raises(UserError, match=r"/teacher reads captions; give conditions=, or draw with"):
        Pipeline.from_folders(tmp_path / "tokenizer", teacher=tmp_path / "teacher")


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} is no workdir of a run that has a teacher"):
        ddjax.Pipeline.from_workdir(tmp_path)


def test_every_way_of_sampling_draws(pipe):
    for way in ("teacher_ar", "teacher_flow", "student_1step", "teacher_involved_2_6", "refine_2"):
        assert np.isfinite(pipe(labels=[1, 2], method=way).images).all()
        assert ways.parse(way).name == way


# What a bare image with JAX for a GPU does not have.
ABSENT = ["tensorflow", "tensorflow_datasets", "clu", "grain", "array_record", "sklearn", "tqdm",
          "tensorboard", "torch", "diffrax", "chex", "pytest"]
BLOCKED = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
"""


def bare(script, *absent):
    """Run Python where only what computes is installed, and of that not what is named."""
    blocked = f"ABSENT = {[*ABSENT, *absent]}\n{BLOCKED}"
    return subprocess.run(
        [sys.executable, "-c", blocked + script], cwd=ROOT, text=True, capture_output=True
    )


def test_importing_ddjax_brings_nothing_that_only_training_needs():
    script = "import sys; before = set(sys.modules); import ddjax; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True,
                           capture_output=True, check=True).stdout.split()
    heavy = {"tensorflow", "tensorflow_datasets", "clu", "grain", "array_record", "sklearn",
             "tensorboard", "torch", "matplotlib"}
    assert "ddjax" in found and not heavy & set(found)


@pytest.mark.slow
def test_the_benchmark_runs_on_a_bare_image():
    done = bare("""
import runpy
sys.argv = ["benchmark", "--config=tests/tiny.py", "--batch=2,4", "--repeats=1",
            "--only=student_1step,training step"]
runpy.run_module("ddjax.benchmark", run_name="__main__")
""")
    assert done.returncode == 0, done.stderr
    assert "| student_1step | 4 |" in done.stdout and "| training step | 8 |" in done.stdout
    assert "reading a batch of pairs: not measured, Grain is not installed" in done.stderr


def test_a_pipeline_draws_on_a_bare_image(tmp_path):
    for role in ("tokenizer", "student"):
        model = run_models.load(config(), Path("nowhere"), role)
        model_folder.save(tmp_path / role, run_models.section(config(), role).kind, model)
    done = bare(f"""
import ddjax
pipe = ddjax.Pipeline.from_folders({str(tmp_path / "tokenizer")!r},
                                   student={str(tmp_path / "student")!r})
print(pipe(labels=[3]).images.shape)
""")
    assert done.stdout.strip() == "(1, 8, 8, 1)", done.stderr
