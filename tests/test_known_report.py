"""The report of a run whose models do what is known: every figure by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.config import from_dict
from ddjax.data import datasets
from ddjax.data.sources import HELD_OUT
from ddjax.evaluation import pictures
from ddjax.method import keys
from ddjax.method.baselines import Marginals
from ddjax.models import MODELS
from ddjax.models.classifier import Classifier
from ddjax.models.llamagen import LlamaGenStudent, LlamaGenTeacher
from ddjax.models.patch_vq import PatchTokenizer
from ddjax.runtime import sharding
from ddjax.stages import evaluate
from ddjax.storage import run_models
from tests import tiny

SAMPLES = 200


def sure(ids, length):
    """Logits [B, length, 16] that leave no doubt."""
    return jnp.broadcast_to(50.0 * jax.nn.one_hot(ids, 16)[:, None], (len(ids), length, 16))


class Known:
    """Models without weights."""

    def __init__(self, config, *, rngs):
        del rngs
        self.config = config


class Teacher(Known, LlamaGenTeacher):
    """Every token is the label."""

    def null(self, condition):
        return jnp.full_like(condition, 10)

    def logits(self, ids_BL, condition):
        return sure(condition, ids_BL.shape[1])

    def prefill(self, condition, ids_BP):
        return sure(condition, 1), condition

    def step(self, ids_BS, group, cache):
        return sure(cache, 1), cache


class Student(Known, LlamaGenStudent):
    """As the teacher, but takes a 3 for a 5."""

    def __call__(self, x_BLC, k, condition):
        return sure(jnp.where(condition == 3, 5, condition), 16), jnp.zeros_like(x_BLC)


LEVELS = np.arange(16) / 8 - 1  # of grey, by id


class Tokenizer(Known, PatchTokenizer):
    """A token is the level of grey of its patch."""

    @property
    def codebook(self):
        return jnp.asarray(LEVELS[:, None] * np.eye(1, 4), jnp.float32)

    def features(self, images):
        means = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16, 1)
        return jnp.pad(means, ((0, 0), (0, 0), (0, 3)))

    def decode(self, x_BLC):
        patches = x_BLC[..., 0].reshape(-1, 4, 1, 4, 1, 1)
        return jnp.broadcast_to(patches, (len(x_BLC), 4, 2, 4, 2, 1)).reshape(-1, 8, 8, 1)


class Net(Known, Classifier):
    """Sees the mean grey, and the class whose level is nearest."""

    def features(self, images):
        return images.mean((1, 2))

    def head(self, features):
        return -jnp.abs(features - jnp.asarray(LEVELS[None, :10], jnp.float32))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Rows by name, the data, the streams of randomness that were used, grids of images by file."""
    tree, root = tiny.get_config().to_dict(), tmp_path_factory.mktemp("run")
    for section in (tree["tokenizer"], tree["teacher"], tree["student"]):
        section["weights"] = "random"
    tree["student"]["split"] = 16
    tree["evaluate"] |= {"samples": SAMPLES, "batch": 70, "sets": 1,
                         "methods": "teacher_ar,teacher_flow,student_1step,onestep_class"}
    tree["evaluate"]["features"]["weights"] = "random"
    known = {"llamagen": Teacher, "llamagen_student": Student, "patch_tokenizer": Tokenizer,
             "classifier": Net}
    streams, stream, part = [], keys.stream, run_models.part
    grids, grid = {}, pictures.labelled_grid
    (root / "pairs").mkdir()
    (root / "pairs" / "manifest.json").write_text("{}")

    def part_or_pairs(config, root, conditions, name):
        """The teacher's pairs, but that its class 7 has the tokens of class 2."""
        if name != "marginals":
            return part(config, root, conditions, name)
        label = np.random.default_rng(0).integers(0, 10, 400)
        ids = np.repeat(np.where(label == 7, 2, label)[:, None], 16, axis=1)
        return Marginals.of_pairs(ids, label, 10)

    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(sharding.one_device()):
        for kind, cls in known.items():
            patch.setitem(MODELS, kind, cls)
        patch.setattr(run_models, "part", part_or_pairs)
        patch.setattr(pictures, "labelled_grid", lambda path, *given: grids.update(
            {path.name: given}) or grid(path, *given))
        patch.setattr(keys, "stream", lambda *given: streams.append(given[1]) or stream(*given))
        config = from_dict(tree)
        evaluate.run(config, root / "evaluate")
    rows = json.loads((root / "metrics.json").read_text())["rows"]
    return {row["method"]: row for row in rows}, datasets.load(config.data), streams, grids


LABELS = np.arange(SAMPLES) % 10
DRAWN = {"teacher_ar": LABELS, "teacher_flow": LABELS,
         "student_1step": np.where(LABELS == 3, 5, LABELS),
         "onestep_class": np.where(LABELS == 7, 2, LABELS)}


def in_bytes(x):
    """Images are measured as files hold them."""
    return np.clip(np.floor(127.5 * x.astype(np.float64) + 128), 0, 255) / 127.5 - 1


SHADES = in_bytes(LEVELS)


def distance(a, b):
    """Fréchet's, of one feature."""
    return (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2


@pytest.mark.parametrize("method", DRAWN)
def test_rows_of_samples(report, method):
    rows, data, *_ = report
    row, feature = rows[method], SHADES[DRAWN[method]]
    of_data = in_bytes(data["image"]).mean((1, 2, 3))
    assert row["fd_data"] == pytest.approx(distance(feature, of_data), abs=1e-6)
    assert row["fd_teacher"] == pytest.approx(distance(feature, SHADES[LABELS]), abs=1e-6)
    equal = (DRAWN[method] == LABELS).mean()
    assert row["class_accuracy"] == row["tokens_equal"] == pytest.approx(equal)
    assert row["passes"] == (1 if "step" in method else 16)


def test_rows_of_the_data(report):
    rows, data, *_ = report
    image, label = data["image"], data["label"]
    patches = image.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    ids = np.abs(patches[..., None] - LEVELS).argmin(-1)
    before, after = in_bytes(image).mean((1, 2, 3)), SHADES[ids].mean((1, 2))

    def accuracy(feature):
        return (np.abs(feature[:, None] - LEVELS[None, :10]).argmin(1) == label).mean()

    found = rows["reconstruction"]
    assert found["fd_data"] == pytest.approx(distance(after, before), rel=0.02)
    assert found["fd_teacher"] == pytest.approx(distance(after, SHADES[LABELS]), rel=3e-3)
    assert found["class_accuracy"] == pytest.approx(accuracy(after), abs=0.003)
    floor = rows["data_floor"]
    assert floor["class_accuracy"] == pytest.approx(accuracy(before), abs=0.003)
    # Two halves, drawn at random, are not the same, and nearer than the rebuilt images are.
    assert 0 < floor["fd_data"] < 0.1 * before.var()
    assert floor["fd_teacher"] is None


def test_the_nearest_training_images(report):
    """By the only feature, the mean grey."""
    _, data, _, grids = report
    rows, (titles, distances), _ = grids["nearest.png"]
    assert titles == [str(label) for label in LABELS[:10]]
    of_seen = in_bytes(data["image"][data["source"] % HELD_OUT != 0]).mean((1, 2, 3))
    shades = SHADES[DRAWN["student_1step"][:10]]
    wanted = np.abs(shades[:, None] - of_seen).min(1)
    shown = in_bytes(rows["nearest\ntraining image"]).mean((1, 2, 3))
    np.testing.assert_allclose(np.abs(shown - shades), wanted, atol=1e-3)  # features are float16
    np.testing.assert_allclose([float(text) for text in distances], wanted, atol=1e-3)
    assert wanted.max() > 0.1


def test_the_noise_is_not_that_of_the_pairs(report):
    """On those the student was trained: its tokens would be counted on what it has learnt."""
    _, _, streams, _ = report
    assert not {"pairs", "distill"} & set(streams)
    # Noise, and what is drawn beside it, of the set and of the reference.
    ours = {name for name in streams if name.startswith("evaluate.")}
    assert len(ours - {"evaluate.features.weights"}) == 4
