"""The stage `teacher`: what it learns from, what it keeps apart, and the line it ends with."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from ddjax.config import from_dict
from ddjax.data import datasets
from ddjax.runtime import sharding
from ddjax.stages import teacher
from ddjax.storage import run_models
from ddjax.training import loop
from tests import tiny


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The config, what was given to the training, the untrained model that it gave, the line."""
    tree, root = tiny.get_config().to_dict(), tmp_path_factory.mktemp("run")
    tree["data"]["copies"] = 2
    tree["tokenizer"]["weights"] = "random"
    tree["teacher"]["label_dropout"] = 1e-9  # none, in fact
    config, given = from_dict(tree), {}

    def train(**options):
        given.update(options)
        return options["init"](nnx.Rngs(1))

    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(sharding.one_device()):
        patch.setattr(loop, "train", train)
        line = teacher.run(config, root / "teacher")
    return config, given, given["init"](nnx.Rngs(1)), line


def rows_of(config, held_out):
    """Images, ids and labels of one image in ten with its copies, or of the others."""
    data = datasets.load(config.data)
    tokenizer = run_models.load(config, Path(), "tokenizer")
    mine = (np.arange(len(data["image"])) % 1797 % 10 == 0) == held_out
    return jax.jit(lambda model, images: model.encode(images))(
        tokenizer, data["image"][mine]
    ), data["label"][mine]


def test_it_learns_from_nine_images_in_ten_and_their_labels(ran):
    config, given, _, _ = ran
    ids, label = rows_of(config, held_out=False)
    rows = given["source"].take(np.arange(len(given["source"])))
    np.testing.assert_array_equal(rows["ids"], ids)
    np.testing.assert_array_equal(rows["condition"], label)
    assert given["loss"].keywords["config"] == config.teacher


def test_its_line_tells_images_it_has_seen_from_others(ran):
    config, _, model, line = ran
    ids, label = rows_of(config, held_out=True)
    log_p = jax.nn.log_softmax(jax.jit(lambda m, *rows: m.logits(*rows))(model, ids, label))
    wanted = -np.take_along_axis(np.asarray(log_p), np.asarray(ids)[..., None], -1).mean()
    nats = re.search(r"(\S+) nats a token on images it has not seen, (\S+) on the others", line)
    assert float(nats[1]) == pytest.approx(wanted, abs=6e-4)
    assert nats[1] != nats[2]
