"""The CLIP score: cosines of images and captions, and their mean by hand."""

import gzip

import jax
import numpy as np
import pytest

from ddjax.config.reading import from_dict
from ddjax.config.schema import ClipSection
from ddjax.data.byte_pairs import BytePairs
from ddjax.evaluation.image_text import ImageText
from ddjax.evaluation.metrics.clip_score import CLIP_SCORE
from ddjax.evaluation.metrics.metric import Samples
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference
from ddjax.evaluation.statistics import Observed, Statistics
from ddjax.method.protocols import Features
from ddjax.models.clip import CLIPConfig
from ddjax.runtime.errors import UserError
from ddjax.storage import run_models
from tests import tiny

# Bytes are its only symbols.
SMALL = {"embedding": 8, "resolution": 16, "patch": 8, "image_width": 16, "image_heads": 2,
         "image_layers": 1, "vocab_size": 514, "text_tokens": 12, "text_width": 16,
         "text_heads": 2, "text_layers": 1}


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b"a title\n"))
    return str(path)


def section(vocabulary):
    return {"kind": "clip", "model": SMALL, "weights": "random", "vocabulary": vocabulary}


def test_cosines_are_of_each_image_and_its_own_text(vocabulary):
    given = ClipSection("clip", CLIPConfig(**SMALL), weights="random", vocabulary=vocabulary)
    texts = ["a red fox", "dusk", ""]
    levels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
    found = ImageText(given).cosines(levels, texts, 3)
    net = run_models.load_model(given, "config.evaluate.clip.weights", None)
    ids = BytePairs([])(texts, 12).ids_NT
    images_NE, texts_NE = jax.jit(lambda net, x, ids: (net.embed_images(x), net.embed_texts(ids)))(
        net, levels.astype(np.float32) / 127.5 - 1, ids
    )
    np.testing.assert_allclose(found, np.einsum("ne,ne->n", images_NE, texts_NE), atol=1e-6)
    assert len(np.unique(np.round(found, 3))) == 3


def score(*batches):
    statistics, index = Statistics(sum(map(len, batches))), 0
    for cosines in batches:
        size = len(cosines)
        batch = Observed(
            np.arange(index, index + size), np.zeros((size, 1, 1, 3), np.uint8),
            Features(np.zeros((size, 2), np.float32)), cosine_B=np.float32(cosines),
        )
        statistics.add(batch, {CLIP_SCORE.key: CLIP_SCORE.per_image(batch)})
        index += size
    return CLIP_SCORE.value(Samples(statistics), Reference(Network("classifier", "0")))


def test_it_is_the_mean_cosine_times_a_hundred():
    assert score([0.5, 0.25], [0.75]) == pytest.approx(50)


def test_a_pair_that_points_apart_counts_as_nothing():
    """It is not taken from the others' score."""
    assert score([1.0, -1.0]) == pytest.approx(50)
    assert score([-0.5]) == 0


@pytest.mark.parametrize(("changes", "message"), [
    ({}, r"evaluate\.clip\.weights: got random, must be none: the score is of images drawn from"),
    ({"kind": "classifier", "model": {"image_size": 8, "image_channels": 3, "num_classes": 1}},
     r"evaluate\.clip\.kind: got classifier, must be one of clip"),
])
def test_what_has_no_score_is_refused(changes, message):
    tree = tiny.get_config().to_dict()
    tree["evaluate"]["clip"] = {**section("x"), **changes}
    with pytest.raises(UserError, match=message):
        from_dict(tree)


def test_without_weights_there_is_none():
    tree = tiny.get_config().to_dict()
    tree["evaluate"]["clip"] = {**section(""), "weights": ""}
    assert from_dict(tree).clip is None
