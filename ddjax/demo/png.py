"""PNG files that tell how they were made, and archives of them."""

import base64
import io
import json
import re
import zipfile
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

# Of the text in a PNG that holds, as JSON, what it takes to draw the image again.
KEY = "ddjax"


def encoded(image: Image.Image, about: dict[str, Any]) -> bytes:
    """A PNG with `about` as JSON in its text `KEY`, and in words in its text Description."""
    call, info = about["call"], PngInfo()
    info.add_text(KEY, json.dumps(about))
    info.add_itxt("Description", f"{about['title']}, by {call['method']}, seed {call['seed']}")
    info.add_text("Software", "ddjax")
    file = io.BytesIO()
    image.save(file, format="png", pnginfo=info)
    return file.getvalue()


def file_name(about: dict[str, Any]) -> str:
    """Method, seed, place and title, in characters that every file system takes."""
    call = about["call"]
    title = re.sub(r"[^a-zA-Z0-9]+", "-", about["title"]).strip("-")[:40]
    return f"{call['method']}-seed{call['seed']}-{about['position']}-{title}.png"


def archive(files: dict[str, bytes]) -> bytes:
    """A zip of files by name."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return made.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """Bytes as a URL that a page may hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
