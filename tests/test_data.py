"""Images: the bundled digits, IDX files, copies."""

import gzip
import struct

import numpy as np
import pytest

from ddjax.config.schema import DataSection
from ddjax.data import datasets
from ddjax.runtime.errors import UserError


def idx(array):
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


def fashion(folder):
    return DataSection("fashion_mnist", 14, 10, str(folder))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(5, 28, 28), dtype=np.uint8)
    images[0, 0, 0] = 255
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(5, dtype=np.uint8)))
    return tmp_path


def test_digits_are_in_range_with_their_labels():
    found = datasets.load(DataSection("digits", 8, 10))
    assert found["image"].shape == (1797, 8, 8, 1)
    assert found["image"].min() == -1 and found["image"].max() == 1
    assert list(found["label"][:10]) == list(range(10))


def test_copies_keep_label_and_source_and_stay_close():
    one, three = (datasets.load(DataSection("digits", 8, 10, copies=n)) for n in (1, 3))
    np.testing.assert_array_equal(three["image"][:1797], one["image"])
    np.testing.assert_array_equal(three["label"][1797 : 2 * 1797], one["label"])
    np.testing.assert_array_equal(three["source"][2 * 1797 :], one["source"])
    a, b = three["image"][1797:].reshape(2, 1797, -1)
    own = np.mean((a - one["image"].reshape(1797, -1)) ** 2)
    other = np.mean((a - one["image"][::-1].reshape(1797, -1)) ** 2)
    assert 0.01 < own < other / 2
    assert np.abs(a - b).max() > 0.5


def test_idx_files_are_read_and_resized(folder):
    found = datasets.load(fashion(folder))
    assert found["image"].shape == (5, 14, 14, 1)
    np.testing.assert_array_equal(found["label"], np.arange(5))


def test_damaged_or_missing_idx_files_are_named(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    whole = gzip.decompress(file.read_bytes())
    negative = idx(np.zeros((0,), np.uint8))[:4] + struct.pack(">i", -1)
    for content in (whole[:-1], whole[:2], whole[:6], b"", b"PK" + whole, negative):
        file.write_bytes(gzip.compress(content))
        with pytest.raises(UserError, match=r"ubyte\.gz is not a whole IDX file"):
            datasets.load(fashion(folder))
    file.write_bytes(gzip.compress(whole)[:100])
    with pytest.raises(UserError, match=r"ubyte\.gz cannot be read"):
        datasets.load(fashion(folder))
    file.unlink()
    with pytest.raises(UserError, match=r"data\.directory: .*ubyte\[\.gz\] is missing"):
        datasets.load(fashion(folder))
