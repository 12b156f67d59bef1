"""Kept images: samples as ADM's npz or as PNG files, written batch by batch.

The npz has one array `arr_0`, uint8 [N, H, W, channels], not compressed. Until all are drawn each
process appends its own to a file of bytes.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics import Observed
from ddjax.runtime import hosts
from ddjax.storage import files


def writer(directory: Path, kind: str) -> Callable[[int, Observed], None] | None:
    """What writes a batch for `Keep.write`; None where images are not kept.

    Args:
      directory: of the set.
      kind: npz, png, or "" for none.
    """
    if kind == "png":
        return lambda seen, batch: _write_pngs(directory / "samples", batch)
    if kind == "npz":
        path = _bytes_file(directory, jax.process_index(), jax.process_count())
        return lambda seen, batch: _append(path, seen, batch.levels_BHWC)
    return None


def finish(folder: SetFolder, kind: str) -> None:
    """Make the npz of a finished set from the files of the processes, unless it is there."""
    path = folder.directory / "samples.npz"
    if kind == "npz" and hosts.is_first() and not path.exists():
        hosts_ = folder.seen_by()
        shape = folder.rows("shown").shape[1:]
        paths = [_bytes_file(folder.directory, i, len(hosts_)) for i in range(len(hosts_))]
        arrays = [np.memmap(file, np.uint8, "r", shape=(len(numbers), *shape))
                  for file, numbers in zip(paths, hosts_, strict=True)]
        _write_npz(path, arrays, hosts_)
        for file in paths:
            file.unlink()
    hosts.barrier(f"{path} written")


def _write_npz(path: Path, arrays: list[np.ndarray], numbers: list[np.ndarray]) -> None:
    order = np.concatenate([
        np.stack([number, np.full(len(number), i), np.arange(len(number))], axis=1)
        for i, number in enumerate(numbers)
    ])
    order = order[np.argsort(order[:, 0])]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(order), *arrays[0].shape[1:])}
    with files.atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive, archive.open(
        "arr_0.npy", "w", force_zip64=True
    ) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, array, row in order:
            file.write(arrays[array][row].tobytes())


def _bytes_file(directory: Path, process: int, processes: int) -> Path:
    return directory / f"samples_{process}_of_{processes}.bytes"


def _append(path: Path, seen: int, levels_BHWC: np.ndarray) -> None:
    """Behind the images seen before; what a killed process has left there is written over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(seen * int(np.prod(levels_BHWC.shape[1:])))
        file.write(np.ascontiguousarray(levels_BHWC).tobytes())


def _write_pngs(folder: Path, batch: Observed) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, levels_HWC in zip(batch.index_B, batch.levels_BHWC, strict=True):
        image = Image.fromarray(levels_HWC.squeeze(-1) if levels_HWC.shape[-1] == 1 else levels_HWC)
        image.save(folder / f"{number:06d}.png")
