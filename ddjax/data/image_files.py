"""Image files: PNG, JPEG, WebP or BMP to RGB arrays, by Pillow; what cannot be read is named."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ddjax.runtime.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# Whatever a file is called, Pillow reads it by its content; of PostScript it would run the program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


class Pixels(NamedTuple):
    """An image, uint8 [H, W, 3], and the mode in which its file holds it, such as CMYK or I;16."""

    rgb_HWC: np.ndarray
    mode: str


def find(directory: Path) -> list[Path]:
    """All image files below a folder, by their endings, in order of their names.

    Raises:
      UserError: the folder is missing, or has none.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder of images")
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise UserError(f"{directory} has no images; they end in {', '.join(ENDINGS)}")
    return found


def read(path: Path) -> Pixels:
    """An image as RGB: turned as its EXIF says, alpha laid on white, 16 bits as 8.

    Raises:
      UserError: it is missing, truncated, no image, or so large that it would fill memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as file:
                mode = file.mode
                return Pixels(np.asarray(_rgb(ImageOps.exif_transpose(file))), mode)
    except (
        OSError, ValueError, SyntaxError, Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read as an image ({why})") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16 bits, not scale them
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
