"""LlamaGen's sizes, of the shapes alone: numbers of parameters, and tokens of 8 pixels a side."""

import jax
import jax.numpy as jnp
import pytest

from ddjax.models import llamagen_trunk, vq
from ddjax.storage import model_folder

# Layers, width D and hidden width H of the feed-forward layers, as in the original.
SIZES = {
    "B": (12, 768, 2048),
    "L": (24, 1024, 2816),
    "XL": (36, 1280, 3584),
    "XXL": (48, 1536, 4096),
    "XXXL": (48, 2560, 6912),
    "1B": (22, 2048, 5632),
    "3B": (24, 3200, 8704),
    "7B": (32, 4096, 11008),
}
CLASSES = {"num_classes": 1000}
CAPTIONS = {"caption_tokens": 120, "caption_dim": 2048}


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def found(kind, size, condition):
    config = llamagen_trunk.LlamaGenConfig(
        vocab_size=16384, code_dim=8, grid=16, **condition, **llamagen_trunk.SIZES[size]
    )
    return count(model_folder.template(kind, config))


@pytest.mark.parametrize("size, teacher, student", [
    ("B", 110.9, 98.3), ("L", 343, 326), ("XL", 775, None), ("XXL", 1400, None), ("3B", 3100, None)
])
def test_published_numbers_of_parameters(size, teacher, student):
    """In millions, to the last digit that is published."""
    digit = {"B": 0.1, "XXL": 100, "3B": 100}.get(size, 1)
    for kind, wanted in (("llamagen", teacher), ("llamagen_student", student)):
        if wanted:
            millions = found(kind, size, CLASSES) / 1e6
            assert millions == pytest.approx(wanted, abs=digit / 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("condition", [CLASSES, CAPTIONS], ids=["classes", "captions"])
def test_numbers_of_parameters_by_hand(size, condition):
    """Term by term, since of most sizes and of all students above L nothing is published."""
    layers, D, H = SIZES[size]
    attention, feed_forward, norms = 4 * D * D, 3 * D * H, 2 * D
    head = D + 16384 * D
    if condition is CLASSES:
        front = 1001 * D
    else:
        null, projection = 120 * 2048, 2048 * D + D * D
        front = null + projection
    both = front + layers * (attention + feed_forward + norms) + head
    assert found("llamagen", size, condition) == both + 16384 * D
    embed, noise_or_data, shift_scale, vector = 8 * D + D, 2 * D, 2 * D, D * 8 + 8
    student = both + embed + noise_or_data + shift_scale + vector
    assert found("llamagen_student", size, condition) == student


def tokenizer(multipliers):
    config = vq.VQTokenizerConfig(256, 3, 16384, 8, 128, multipliers, 2, 256)
    return model_folder.template("llamagen_tokenizer", config)


@pytest.mark.parametrize("multipliers, side, millions", [
    ((1, 1, 2, 2, 4), 16, 72), ((1, 2, 2, 4), 32, 70)
])
def test_tokenizers_of_16_and_8_pixels(multipliers, side, millions):
    """Their tokens and images, and the published numbers of parameters."""
    model = tokenizer(multipliers)
    assert model.config.grid == side and round(count(model) / 1e6) == millions

    def there_and_back(model, images):
        ids = model.encode(images)
        return ids, model.decode(model.codebook[ids])

    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    ids, back = jax.eval_shape(there_and_back, model, images)
    assert ids.shape == (2, side**2) and ids.dtype == jnp.int32
    assert back.shape == images.shape


def test_numbers_of_parameters_of_the_tokenizer_and_its_decoder():
    model = tokenizer((1, 1, 2, 2, 4))
    assert round(count(model) / 1e6, 1) == 71.9
    assert round(count(model.decoder) / 1e6, 1) == 42.4
