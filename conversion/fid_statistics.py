"""Converter of statistics for FID from PyTorch: {"m", "s"} or {"mu", "sigma"} to an .npz file.

    python conversion/fid_statistics.py --checkpoint=statistics.pth

Distilled Decoding's are such a file. `ddjax.metrics` and `config.evaluate.reference` read the .npz.
"""

import codecs
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when it is run as a script

try:
    import torch
except ModuleNotFoundError:
    sys.exit("error: the converter needs PyTorch, which is missing; pip install -e '.[convert]'")

import numpy as np
from absl import flags
from numpy._core.multiarray import _reconstruct

from conversion.read import load_tree
from ddjax import cli
from ddjax.evaluation import statistics_files
from ddjax.runtime.errors import UserError
from ddjax.storage import files

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The .pt or .pth file")
_OUTPUT = flags.DEFINE_string("output", None, "By default the checkpoint's name, ending in .npz")

# Arrays of numpy's, of numbers alone; the first two by the names they had before numpy 2 as well.
_ARRAYS = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (codecs.encode, "_codecs.encode"),
    np.ndarray, np.dtype, type(np.dtype("float32")), type(np.dtype("float64")),
]

_NAMES = (("m", "s"), ("mu", "sigma"))


def main() -> None:
    """Read the one file, write the other."""
    if not _CHECKPOINT.value:
        raise UserError("--checkpoint is missing; name a .pt or .pth file")
    file = Path(_CHECKPOINT.value)
    output = Path(_OUTPUT.value or file.with_suffix(".npz").name)
    if output.exists():
        raise UserError(f"{output} exists already; name another with --output")
    with torch.serialization.safe_globals(_ARRAYS):
        tree = load_tree(file)
    mu, sigma = _found(file, tree)
    with files.atomic(output) as temporary:
        with temporary.open("wb") as opened:
            np.savez(opened, mu=mu, sigma=sigma)
        statistics_files.read(temporary)  # refuses what are no statistics
    print(f"{output}: statistics of {mu.size} features")


def _found(file: Path, tree: Any) -> tuple[np.ndarray, np.ndarray]:
    for names in _NAMES:
        if isinstance(tree, Mapping) and all(name in tree for name in names):
            try:
                mu, sigma = (np.asarray(tree[name], np.float64) for name in names)
            except (TypeError, ValueError, RuntimeError) as error:
                wanted = f"{' and '.join(names)} must be arrays of numbers"
                raise UserError(f"{file}: {wanted} ({str(error).partition('.')[0]})") from None
            return mu, sigma
    keys = ", ".join(map(str, tree)) if isinstance(tree, Mapping) else type(tree).__name__
    raise UserError(f"{file} has {keys or 'nothing'}; needs m and s, or mu and sigma")


if __name__ == "__main__":
    cli.run(main)
