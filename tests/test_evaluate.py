"""The stages `evaluate` and `sample` from the inside; what comes out is tested in test_main."""

import collections
import logging
import re

import jax
import numpy as np

from ddjax import evaluate, sample, sharding
from ddjax.config_file import from_dict
from ddjax.workdir import Stage
from tests import tiny


def config(**evaluate):
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    tree["evaluate"].update(evaluate)
    return tree


def test_samples_are_drawn_in_batches(tmp_path):
    tree = config(batch=3)
    tree["sample"].update(count=7, labels="3,1,4,1,5,9,2")
    with jax.set_mesh(sharding.one_device()):
        images, ids = sample._draw_all(from_dict(tree), tmp_path)
        tree["evaluate"]["batch"] = 25
        wanted, wanted_ids = sample._draw_all(from_dict(tree), tmp_path)
    assert len(wanted) == 7
    np.testing.assert_allclose(images, wanted, atol=1e-5)
    np.testing.assert_array_equal(ids, wanted_ids)


def test_compiles_each_program_once(tmp_path, caplog):
    """Whatever is measured: full batches or the last, samples or data."""
    tree = config(methods="teacher_ar,student_1step", samples=50, batch=16, resamplings=1)
    jax.clear_caches()
    with jax.set_mesh(sharding.one_device()), jax.log_compiles(), caplog.at_level(logging.WARNING):
        evaluate.run(from_dict(tree), Stage(tmp_path / "evaluate", "evaluate", {}))
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["draw_images"] == 2  # methods
    named = ("_features_and_classes", "_noise_and_labels", "reconstruct", "train_step")
    assert {name: compiled[name] for name in named} == dict.fromkeys(named, 1)
