"""The stages `evaluate` and `sample` from the inside; what comes out is tested in test_main."""

import collections
import logging
import re

import jax
import numpy as np
import pytest

from ddjax.config.reading import from_dict
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.metrics import measured
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference
from ddjax.method import ways
from ddjax.runtime import sharding
from ddjax.stages import evaluate, sample, sample_sets
from ddjax.stages.sample_sets import SampleSets
from ddjax.storage import run_models
from tests import tiny


def config(**evaluate):
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    tree["evaluate"].update(evaluate)
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("method", ["teacher_ar", "student_1step"])
def test_what_is_drawn_does_not_depend_on_the_batch(tmp_path, method):
    tree = config(batch=3)
    tree["sample"].update(count=7, labels="3,1,4,1,5,9,2")
    tree["sample"]["method"] = method
    drawn = []
    for batch in (3, 25):
        tree["evaluate"]["batch"] = batch
        sample.run(from_dict(tree), tmp_path / "sample" / str(batch))
        drawn.append(np.load(tmp_path / "sample" / str(batch) / "images.npz"))
    few, many = drawn
    assert len(many["images"]) == 7
    np.testing.assert_allclose(few["images"], many["images"], atol=1e-5)
    np.testing.assert_array_equal(few["ids"], many["ids"])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What is drawn for a report of two sets on one device, and the figures by method."""
    tree = config(methods="teacher_ar,teacher_flow,refine_16", samples=12, batch=5, sets=2)
    tree["evaluate"]["features"] = {**tree["evaluate"]["features"], "weights": "random"}
    run, root = from_dict(tree), tmp_path_factory.mktemp("run")
    net = run_models.load_model(run.evaluate.features, "net", root)
    methods = [ways.parse(name) for name in run.evaluate.methods]
    with jax.set_mesh(sharding.one_device()):
        measure = Measure(net, Network("classifier", "random"), 5, save_every=2)
        sets = SampleSets(run, root / "evaluate", measure, methods, lambda index: index < 12)
        sets.make_all()
        yield sets, {way: [sets.folder(way, i) for i in range(2)] for way in methods}


def ids_of(folder):
    """The ids that images of a set have, read off the images: each code has its own patch."""
    return folder.rows("shown").reshape(12, -1)


def test_the_reference_and_all_sets_are_drawn_apart(drawn):
    """A distance to samples that share their chance would come out too small."""
    sets, folders = drawn
    apart = [sets.folder(sample_sets.TEACHER, sample_sets.REFERENCE), *folders[sample_sets.TEACHER]]
    assert len(np.unique(np.concatenate([ids_of(one) for one in apart]), axis=0)) == 3 * 12
    exact = np.concatenate([one.rows("ids") for one in folders[ways.TeacherFlow()]])
    assert len(np.unique(exact, axis=0)) == 2 * 12


def test_methods_share_the_noise_of_a_set(drawn):
    """Refinement by as many passes as there are groups is the exact map of the same noise."""
    sets, folders = drawn
    for refined, exact in zip(folders[ways.Refine(16)], folders[ways.TeacherFlow()], strict=True):
        np.testing.assert_array_equal(refined.rows("shown"), exact.rows("shown"))
    reference = Reference(sets.measure.network)
    rows = {way.name: measured(way.name, evaluate._sets(sets, way), reference) for way in folders}
    assert rows["refine_16"]["tokens_equal"] == rows["teacher_flow"]["tokens_equal"] == 1
    assert rows["refine_16"]["deviation"]["tokens_equal"] == 0
    assert rows["teacher_ar"]["tokens_equal"] < 0.5


@pytest.mark.slow
def test_compiles_each_program_once(tmp_path, caplog):
    """Whatever is measured: full batches or the last, samples or data."""
    tree = config(methods="teacher_ar,student_1step", samples=50, batch=16, sets=1)
    jax.clear_caches()
    with jax.set_mesh(sharding.one_device()), jax.log_compiles(), caplog.at_level(logging.WARNING):
        evaluate.run(from_dict(tree), tmp_path / "evaluate")
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["draw_images"] == 2  # methods
    named = ("see", "noise", "reconstruct", "train_step")
    assert {name: compiled[name] for name in named} == dict.fromkeys(named, 1)
