"""Validation during training: the curve and the best model, also of a training that was stopped."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from ddjax.config.reading import from_dict, plain
from ddjax.evaluation.frechet import Gaussian, frechet_distance
from ddjax.method import keys, trajectory
from ddjax.method.guidance import Guided
from ddjax.method.sampling import student_sample
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import feature_net, held_out
from ddjax.storage import model_folder, run_models
from ddjax.training import validation as curves
from ddjax.training.validation import Validation
from tests import tiny
from tests.test_storage import assert_trees_equal
from tests.test_train import Interrupted, events, run


def weight(model):
    return float(np.abs(np.asarray(model.head.kernel[...])).sum())


def up_and_down(target):
    """A scalar that is best at the step where `target` comes in the list of all."""
    def measure(model):
        return {"weight": weight(model), "distance": abs(weight(model) - target)}
    return measure


def train(directory, measure, every=2, keep_best="distance", **options):
    return run(directory, validation=Validation(
        measure, every, {"samples": 3}, keep_best, min
    ), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training of ten steps without a stop that keeps the model of step 4, and its measure."""
    first = tmp_path_factory.mktemp("first")
    seen = []
    run(first, validation=Validation(lambda m: seen.append(weight(m)) or {"x": 0.0}, 2))
    assert len(set(seen)) == 5
    measure = up_and_down(seen[1])
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(directory, measure), measure, seen


def test_the_curve_has_a_row_for_each_validation(whole):
    directory, _, _, seen = whole
    curve = curves.read(directory)
    assert [row["step"] for row in curve["rows"]] == [2, 4, 6, 8, 10]
    assert [row["weight"] for row in curve["rows"]] == seen
    assert events(directory, "validation/weight") == {
        step: [pytest.approx(value)] for step, value in zip((2, 4, 6, 8, 10), seen, strict=True)
    }


def test_the_last_step_is_validated_whatever_its_number(tmp_path):
    train(tmp_path, lambda model: {"distance": 0.0}, every=4)
    assert [row["step"] for row in curves.read(tmp_path)["rows"]] == [4, 8, 10]


def test_the_best_model_is_kept(whole, tmp_path):
    """Of step 4; of equally good ones the first; without keep_best the last."""
    directory, model, _, seen = whole
    assert curves.read(directory)["kept"] == 4
    assert weight(model) == seen[1]
    assert_trees_equal(model_folder.load(directory / "model"), model)
    assert not (directory / "best").exists()
    last = train(tmp_path / "last", up_and_down(0), keep_best="")
    assert weight(last) == seen[-1] and curves.read(tmp_path / "last")["kept"] is None
    first = train(tmp_path / "first", lambda model: {"distance": 1.0})
    assert weight(first) == seen[0] and curves.read(tmp_path / "first")["kept"] == 2


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
def test_a_stopped_training_has_the_same_curve_and_the_same_best_model(whole, tmp_path, stop_at):
    """Stopped in its n-th validation, behind checkpoints 3, 6 and 9."""
    directory, wanted, measure, _ = whole
    calls = []

    def stopping(model):
        calls.append(1)
        if len(calls) == stop_at:
            raise Interrupted
        return measure(model)

    with pytest.raises(Interrupted):
        train(tmp_path, stopping)
    assert_trees_equal(train(tmp_path, measure), wanted)
    assert curves.read(tmp_path) == curves.read(directory)
    for step, values in events(tmp_path, "validation/weight").items():
        assert set(values) == set(events(directory, "validation/weight")[step])


def test_rows_behind_the_checkpoint_are_measured_again(whole, tmp_path):
    """Killed after step 4 was found best and step 2's model removed, it goes on from step 3."""
    directory, wanted, measure, _ = whole
    calls = []

    def stop(model):
        calls.append(1)
        if len(calls) == 5:
            raise Interrupted
        return {}

    with pytest.raises(Interrupted):
        train(tmp_path, measure, pictures=stop)
    assert [row["step"] for row in curves.read(tmp_path)["rows"]] == [2, 4]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["4"]
    assert_trees_equal(train(tmp_path, measure), wanted)
    assert curves.read(tmp_path) == curves.read(directory)


def test_a_curve_is_not_continued_with_other_samples(whole, tmp_path):
    directory, _, measure, _ = whole
    shutil.copytree(directory, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "model")
    with pytest.raises(UserError, match=r"validation\.json was measured otherwise \(there "
                                        r"\{'samples': 3\}, now \{'samples': 5\}\); use those"):
        run(tmp_path / "copy", validation=Validation(measure, 2, {"samples": 5}))
    path = tmp_path / "copy" / "validation.json"
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))
    with pytest.raises(UserError, match=r"validation\.json is damaged.*move .* aside"):
        train(tmp_path / "copy", measure)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher"):
        tree[section]["weights"] = "random"
    tree["evaluate"].update(batch=1, features={**tree["evaluate"]["features"],
                                               "weights": "random"})
    tree["pairs"]["batch"] = 1
    tree["distill"].update(validate_every=2, validate_samples=10)
    root = tmp_path_factory.mktemp("run")
    (root / "distill").mkdir()
    return from_dict(tree), root


def models(config, root):
    return (run_models.load(config, root, name) for name in ("teacher", "tokenizer"))


def made(config, root):
    """On the current mesh."""
    return held_out.validation(
        config, root / "distill", *models(config, root), run_models.conditions(config)
    )


@pytest.mark.slow
def test_what_is_measured_against_an_independent_computation(setting):
    """Ten noises of the student and the teacher, ten others of the teacher; 8 devices as one."""
    config, root = setting
    teacher, tokenizer = models(config, root)
    student = MODELS["llamagen_student"].from_teacher(teacher, rngs=nnx.Rngs(5))
    found = made(config, root)
    assert (found.every, found.keep_best, found.about["samples"]) == (2, "", 10)
    net = run_models.load_model(config.evaluate.features, "evaluate.features.weights", root)
    index, label = np.arange(20, dtype=np.int32), np.arange(20, dtype=np.int32) % 10
    eps = keys.noise(keys.stream(0, "distill.validation"), index, 16, 4)
    exact = jax.jit(lambda teacher, *rest: trajectory.map_noise(
        Guided(teacher, config.guidance), *rest, config.flow
    ))
    ids = np.asarray(exact(teacher, label, eps, tokenizer.codebook))
    drawn = jax.jit(lambda s, *a: student_sample(s, *a, steps=(0,), split=10))(
        student, tokenizer.codebook, eps[:10], label[:10]
    )
    features = jax.jit(lambda x: net.features(tokenizer.decode(x)))
    teachers = features(tokenizer.codebook[ids[10:]])
    fd = frechet_distance(*(
        Gaussian(np.mean(rows, 0), np.cov(np.float64(rows), rowvar=False))
        for rows in (features(drawn.x_BLC), teachers)
    ))
    equal = np.mean(np.asarray(drawn.ids_BL) == ids[:10])
    assert 0 < equal < 1 and fd > 0
    scalars = found.measure(student)
    assert scalars["tokens_equal"] == pytest.approx(equal)
    assert scalars["fd"] == pytest.approx(fd, rel=1e-4)
    np.testing.assert_array_equal(np.load(root / "distill" / "held_out_20.npy"), ids)
    with jax.set_mesh(sharding.make_mesh(2)):
        everywhere = made(config, root)
        assert everywhere.measure(sharding.shard(student, student.layout)) == {
            "tokens_equal": pytest.approx(equal), "fd": pytest.approx(fd, rel=1e-3)
        }


def test_a_damaged_map_of_the_held_out_noise_is_named(setting, tmp_path):
    config, _ = setting
    (tmp_path / "distill").mkdir()
    path = tmp_path / "distill" / "held_out_20.npy"
    for content in (b"", b"no array at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"held_out_20\.npy is damaged .*move it aside"):
            made(config, tmp_path)
    np.save(path, np.zeros((20, 4), np.uint16))
    with pytest.raises(UserError, match=r"its shape is \(20, 4\), not \(20, 16\)"):
        made(config, tmp_path)


@pytest.mark.slow
def test_the_feature_net_is_the_evaluations(finished, tmp_path):
    """Trained once, by whoever needs it first, in a folder with its settings."""
    root, _ = finished
    config = from_dict(tiny.get_config().to_dict())
    with jax.set_mesh(sharding.one_device()):
        feature_net.for_evaluation(config, tmp_path)
        digest = feature_net.digest_for_evaluation(config, tmp_path)
        assert digest == feature_net.digest_for_evaluation(config, root)
        other = from_dict({**plain(config), "seed": 1})
        with pytest.raises(UserError, match="feature_net was made by other settings: seed"):
            feature_net.for_evaluation(other, tmp_path)


def test_without_validation_nothing_is_made(tmp_path):
    config = from_dict(tiny.get_config().to_dict())
    assert held_out.validation(config, tmp_path / "distill", None, None, None) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("changes", "message"), [
    ({"validate_every": -1}, r"distill\.validate_every: got -1, must be >= 0"),
    ({"validate_samples": 1}, r"distill\.validate_samples: got 1, must be in 2\.\."),
    ({"validate_every": 5, "keep_best": "loss"}, r"distill\.keep_best: got loss, must be tokens"),
    ({"keep_best": "fd"}, r"distill\.validate_every: got 0, must be >= 1 for distill\.keep_best"),
])
def test_bad_settings_are_refused(changes, message):
    tree = tiny.get_config().to_dict()
    tree["distill"].update(changes)
    with pytest.raises(UserError, match=message):
        from_dict(tree)
