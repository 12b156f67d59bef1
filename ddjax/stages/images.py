"""Images of a run: opened, recorded in the workdir, and encoded to ids, which are kept."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ddjax.config.schema import Config
from ddjax.data import datasets
from ddjax.data.sources import Images, Source
from ddjax.runtime import hosts, progress, sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files, run_models

# Pixels that are encoded at once on a device.
PIXELS = 2**19


def opened(config: Config, root: Path) -> Images:
    """The images of a run.

    What they are is recorded in `data.json` of the workdir, with the names of the files that are
    left out and why; what is to be said about them is printed when they are first opened.

    Args:
      config: of the run.
      root: the workdir.

    Raises:
      UserError: they are others than the workdir has recorded, or as `ddjax.data.datasets.source`.
    """
    images, path = datasets.source(config.data), root / "data.json"
    if not images.digest:
        return images
    advice = f"move {path} aside if these are the images that the run is to go on with"
    recorded = files.read_json_with_digest(path, advice, ("digest",))
    if recorded is None:
        if hosts.is_first():
            files.write_json_with_digest(path, _about(config, images))
        for remark in images.remarks:
            hosts.print_once(f"images     {remark}")
    elif recorded["digest"] != images.digest:
        raise UserError(
            f"{config.data.directory or config.data.name}: these are not the images that "
            f"{root} was begun with; put those back, or use another --workdir"
        )
    return images


def _about(config: Config, images: Images) -> dict[str, Any]:
    return {
        "name": config.data.name, "directory": config.data.directory, "digest": images.digest,
        "images": len(images), "held_out": int(images.held_out.sum()),
        "classes": list(images.classes), "skipped": list(images.skipped),
        "remarks": list(images.remarks),
    }


def ids(config: Config, directory: Path, coder: nnx.Module, images: Images) -> np.ndarray:
    """Ids [N, L] uint16 of all images, in their order, mapped from `ids.npy`.

    They are computed once, by the tokenizer's stage, or by that of a teacher whose tokenizer was
    not trained in the run.

    Args:
      config: of the run.
      directory: of the stage that asks, where they are kept if the tokenizer's has none.
      coder: the tokenizer.
      images: of the run.
    """
    root = directory.parent
    made_from = {"tokenizer": run_models.digest(config, root, "tokenizer"),
                 "images": images.digest, "count": len(images)}
    for folder in (root / "tokenizer", directory):
        found = _kept(folder, made_from)
        if found is not None:
            return found
    length = sum(side**2 for side in coder.config.token_maps.sides)
    path, size = directory / "ids.npy", batch(config)
    parts = over(lambda coder, images: coder.encode(images), coder, images, size)
    parts = progress.bar(parts, "ids", -(-len(images) // size))
    if not hosts.is_first():
        for _ in parts:  # all processes compute together
            pass
    else:
        with files.atomic(path) as temporary:
            whole = np.lib.format.open_memmap(temporary, "w+", np.uint16, (len(images), length))
            begin = 0
            for part in parts:
                whole[begin : begin + len(part)] = part
                begin += len(part)
            whole.flush()
        record = {**made_from, "content": files.digest(path)}
        files.write_json_with_digest(directory / "ids.json", record)
    hosts.barrier("ids written")
    return _kept(directory, made_from)


def _kept(folder: Path, made_from: dict[str, Any]) -> np.ndarray | None:
    """The ids of a folder, if they are whole and of these images by this tokenizer."""
    path, about = folder / "ids.npy", folder / "ids.json"
    recorded = files.read_json_with_digest(about, f"remove it, and {path}")
    if recorded is None or not path.exists():
        return None
    whole = recorded == {**made_from, "content": files.digest(path)}
    return np.load(path, mmap_mode="r", allow_pickle=False) if whole else None


def batch(config: Config) -> int:
    """How many images go through the tokenizer at once on all devices."""
    return sharding.devices() * min(512, max(8, PIXELS // config.data.image_size**2))


def over(
    function: Callable[[nnx.Module, jax.Array], jax.Array], model: nnx.Module, images: Source,
    size: int,
) -> Iterator[np.ndarray]:
    """What a function of a model and images gives, [n, ...] batch by batch, on every process.

    Args:
      function: of a model and images [B, H, W, channels].
      model: likewise on all devices.
      images: to go through, in their order.
      size: B, over all devices.
    """
    one = jax.jit(sharding.per_device(function, replicated=1))
    for start in range(0, len(images), size):
        # The last image again where the last batch is not full.
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        part = images.take(rows[sharding.local_rows(size)])["image"]
        made = sharding.to_host(one(model, sharding.shard_batch(part, size)))
        yield made[: len(images) - start]
