"""Sets of TensorFlow Datasets, of which one is made here, as its download would be."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ddjax.config.schema import DataSection
from ddjax.data import datasets
from ddjax.runtime.errors import UserError

pytestmark = pytest.mark.slow  # TensorFlow takes seconds to import


class DdjaxPets(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None

    def _info(self):
        features = {
            "number": tfds.features.Scalar(np.int64),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.full((10 + i, 12, 3), 20 * i, np.uint8)
            yield i, {"number": i, "image": image, "label": i % 2}


def section(root, name="tfds:ddjax_pets", classes=2, channels=3):
    return DataSection(name, 8, classes, str(root / "tfds"), channels, cache=str(root / "cache"))


@pytest.mark.parametrize(("split", "count"), [("", 6), ("@test", 4), ("@train+test", 10)])
def test_a_set_is_read_with_its_labels(tmp_path, split, count):
    rows = datasets.load(section(tmp_path, f"tfds:ddjax_pets{split}"))
    assert rows["image"].shape == (count, 8, 8, 3)
    assert (rows["image"] == rows["image"][:, :1, :1, :1]).all()
    shade = np.rint((rows["image"][:, 0, 0, 0] + 1) * 127.5 / 20).astype(int)
    np.testing.assert_array_equal(rows["label"], shade % 2)
    assert sorted(shade) == sorted([*range(6), *range(4)] if count == 10 else range(count))


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("tfds:ddjax_pets", 3, "num_classes: got 3, must be 2: so many classes has tfds:ddjax_pe"),
        ("tfds:ddjax_pets@valid", 2, "data.name: tfds:ddjax_pets@valid could not be had"),
        ("tfds:there_is_no_such", 2, "data.name: tfds:there_is_no_such .*tfds:cifar10"),
        ("tfds:a b", 2, "data.name: tfds:a b could not be had"),
    ],
)
def test_what_tfds_does_not_have_is_named(tmp_path, name, classes, message):
    with pytest.raises(UserError, match=message) as error:
        datasets.source(section(tmp_path, name, classes))
    assert "\n" not in str(error.value)
