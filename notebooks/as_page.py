"""Page of the site from the notebook: its texts and outputs, without its code (MkDocs hook)."""

import base64
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

NOTEBOOK = Path(__file__).with_name("inspect_trajectories.ipynb")
PAGE, INTRODUCTION = "pictures.md", """# The method in pictures

Texts and figures of `notebooks/inspect_trajectories.ipynb`, which has the code that draws them, for
any finished run.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the page and its pictures to those of the site."""
    parts, pictures = [INTRODUCTION], []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells[1:]:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                parts.append(f"```text\n{output.text}```")
            elif png := output.get("data", {}).get("image/png"):
                pictures.append(base64.b64decode(png))
                parts.append(f"![]({_name(len(pictures))})")
    files.append(File.generated(config, PAGE, content="\n\n".join(parts)))
    for number, content in enumerate(pictures, 1):
        files.append(File.generated(config, _name(number), content=content))
    return files


def _name(number: int) -> str:
    return f"pictures/{number}.png"
