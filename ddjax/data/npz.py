"""NumPy archives (.npz) of untrusted arrays: no code in them is run, and what is wrong is named."""

import lzma
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ddjax.runtime.errors import UserError

# What NumPy and zipfile raise of a file that is damaged, encrypted, or claims more than fits.
UNREADABLE = (
    OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)


def read(
    path: Path, where: str, advice: str, leave: Collection[str] = ()
) -> dict[str, np.ndarray | None]:
    """The arrays of a file, by name; None in place of those that are left unread.

    Args:
      path: of the file.
      where: what errors call it.
      advice: what to give where it is missing.
      leave: names of arrays that are not read.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: None if name in leave else file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{where} is missing; {advice}") from None
    except UNREADABLE as error:
        raise UserError(f"{where} cannot be read as .npz ({error})") from None
