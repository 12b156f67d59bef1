"""Statistics files: mean and covariance of a data set's features, as .npz.

ADM's have mu, sigma, mu_s, sigma_s and images arr_0; pytorch-fid's have mu and sigma; ours have
what ADM's have but images, and say of what net and how many images they are.
"""

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddjax.data import npz
from ddjax.evaluation.frechet import Gaussian
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference
from ddjax.runtime.errors import UserError
from ddjax.storage import files

VERSION = metadata.version("ddjax")


class StatisticsFile(NamedTuple):
    """What a file holds.

    Attributes:
      pooled: of the pooled features; None where it has no mu and sigma.
      spatial: of the spatial features, likewise.
      count: images behind them; None where it does not say.
      network: whose features they are; None where it does not say.
      has_images: whether it has arr_0.
    """

    pooled: Gaussian | None
    spatial: Gaussian | None
    count: int | None
    network: Network | None
    has_images: bool


def read(path: Path) -> StatisticsFile:
    """Read an .npz file without its images.

    Raises:
      UserError: it is damaged, of other shapes, not finite, or PyTorch's.
    """
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise UserError(
            f"{path} is a file of PyTorch's; make an .npz of it with: python "
            f"conversion/fid_statistics.py --checkpoint={path.name}"
        )
    advice = "give an .npz file of statistics or images"
    arrays = npz.read(path, str(path), advice, leave=("arr_0",))
    has_images = "arr_0" in arrays
    arrays.pop("arr_0", None)
    pooled = _gaussian(path, arrays, "mu", "sigma")
    if pooled is None and not has_images:
        raise UserError(
            f"{path} has the arrays {', '.join(arrays)}; needs mu and sigma, or images arr_0"
        )
    named = all(name in arrays for name in Network._fields)
    network = Network(*(str(arrays[name]) for name in Network._fields)) if named else None
    return StatisticsFile(
        pooled, _gaussian(path, arrays, "mu_s", "sigma_s"), _count(path, arrays), network,
        has_images,
    )


def _count(path: Path, arrays: dict[str, np.ndarray]) -> int | None:
    found = arrays.get("count")
    if found is None:
        return None
    if found.shape or found.dtype.kind not in "iu":
        raise UserError(
            f"{path}: count is {found.dtype.name} {list(found.shape)}, must be a whole number"
        )
    return int(found)


def _gaussian(path: Path, arrays: dict[str, np.ndarray], mean: str, cov: str) -> Gaussian | None:
    if mean not in arrays or cov not in arrays:
        return None
    for name in (mean, cov):
        if arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: {name} has values that are not finite numbers")
    mean_F, cov_FF = arrays[mean].astype(np.float64), arrays[cov].astype(np.float64)
    width = mean_F.size
    if mean_F.shape != (width,) or cov_FF.shape != (width, width):
        raise UserError(
            f"{path}: {mean} is {list(mean_F.shape)} and {cov} {list(cov_FF.shape)}; must be [F] "
            "and [F, F]"
        )
    if not np.allclose(cov_FF, cov_FF.T, rtol=1e-5, atol=1e-8) or (np.diag(cov_FF) < 0).any():
        raise UserError(f"{path}: {cov} is no covariance: not symmetric, or negative")
    return Gaussian(mean_F, cov_FF)


def check(path: Path, found: StatisticsFile, network: Network, width: int) -> None:
    """Refuse statistics of another net.

    Args:
      path: of the file.
      found: what it holds.
      network: whose features samples are compared in.
      width: of its pooled features.

    Raises:
      UserError: says in what they differ.
    """
    if found.pooled is not None and found.pooled.mean_F.size != width:
        raise UserError(
            f"{path} has statistics of {found.pooled.mean_F.size} features, this {network.kind} "
            f"has {width}: they are of another net"
        )
    if found.network in (None, network):
        return
    for name, theirs, ours in zip(Network._fields, found.network, network, strict=True):
        if theirs != ours:
            raise UserError(
                f"{path} was made with another {name}, {theirs or 'none'}, than is used here, "
                f"{ours or 'none'}; make it again, or use that"
            )


def write(path: Path, made: Reference) -> None:
    """Write statistics so that ADM's and pytorch-fid's evaluators, and `read`, can read them.

    Args:
      path: of the new .npz file.
      made: of the images.
    """
    arrays = {"mu": made.pooled.mean_F, "sigma": made.pooled.cov_FF}
    if made.spatial is not None:
        arrays |= {"mu_s": made.spatial.mean_F, "sigma_s": made.spatial.cov_FF}
    about = {"count": made.count, "ddjax": VERSION, **made.network._asdict()}
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **{name: np.array(value) for name, value in about.items()})
