"""Colour images of TensorFlow Datasets, downloaded by it.

    python -m ddjax.main --config=configs/tfds.py:cifar10 --workdir=runs/cifar10

`cifar10` has ten classes at 32 pixels, `flowers` 102 kinds and `celeba` faces without classes, both
at 64. Any other set of images: --config.data.name=tfds:NAME with the number of its classes, see
docs/own_images.md. Sizes are for one GPU.
"""

from ml_collections import ConfigDict

from ddjax.config import common, complete
from ddjax.runtime.errors import UserError

# Name with TFDS, pixels a side, classes. Flowers' test split is the largest.
SETS = {
    "cifar10": ("tfds:cifar10", 32, 10),
    "flowers": ("tfds:oxford_flowers102@train+validation+test", 64, 102),
    "celeba": ("tfds:celeb_a", 64, 1),
}


def get_config(name: str = "cifar10") -> ConfigDict:
    """Colour images of 8x8 tokens, by LlamaGen's models.

    Raises:
      UserError: there is no such set here.
    """
    if name not in SETS:
        raise UserError(f"configs/tfds.py:{name}: unknown set; known are {', '.join(SETS)}")
    tfds_name, image_size, classes = SETS[name]
    return complete({
        **common.colour(image_size, classes, scale=2),
        "name": name,
        "data": {"name": tfds_name, "image_channels": 3, "image_size": image_size,
                 "num_classes": classes},
    })
