"""The stage `evaluate` from the inside: what it compiles. Its figures are tested in test_main."""

import collections
import logging
import re

import jax

from ddjax import evaluate, sharding
from ddjax.config_file import from_dict
from ddjax.workdir import Stage
from tests import tiny


def test_compiles_each_program_once(tmp_path, caplog):
    """Whatever is measured: full batches or the last, samples or data."""
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    tree["evaluate"].update(
        methods="teacher_ar,student_1step", samples=50, batch=16, resamplings=1
    )
    jax.clear_caches()
    with jax.set_mesh(sharding.one_device()), jax.log_compiles(), caplog.at_level(logging.WARNING):
        evaluate.run(from_dict(tree), Stage(tmp_path / "evaluate", "evaluate", {}))
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["draw_images"] == 2  # methods
    named = ("_features_and_classes", "_noise_and_labels", "reconstruct", "train_step")
    assert {name: compiled[name] for name in named} == dict.fromkeys(named, 1)
