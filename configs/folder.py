"""Your own images: a folder of files of any size, whose sub-folders are classes. See
docs/own_images.md.

    python -m ddjax.main --config=configs/folder.py:9 --workdir=runs/mine \
        --config.data.directory=DIR

The number behind the colon is how many sub-folders there are; without one, the images have no
classes. `configs/folder.py:9,64` is for 64 pixels a side instead of 32.
"""

from ml_collections import ConfigDict

from ddjax.config import common, complete
from ddjax.runtime.errors import UserError

SIZES = ("16", "32", "64", "128", "256")


def get_config(argument: str = "1") -> ConfigDict:
    """Colour images of 8x8 tokens, by LlamaGen's models.

    Raises:
      UserError: the argument is neither a number nor two.
    """
    classes, _, size = (argument if "," in argument else f"{argument},32").partition(",")
    if not classes.isdecimal() or size not in SIZES:
        raise UserError(
            f"configs/folder.py:{argument}: must be CLASSES or CLASSES,SIZE, such as 9 or 9,64; "
            f"sizes are {', '.join(SIZES)}"
        )
    return complete({
        **common.colour(int(size), int(classes)),
        "name": "folder",
        "data": {"name": "folder", "directory": "", "image_channels": 3,
                 "image_size": int(size), "num_classes": int(classes)},
    })
