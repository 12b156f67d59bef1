"""Inception-v3 as a table: convolutions, pools and branches, in the order of the forward pass.

The network of TensorFlow's graph of 2015-12-05, which FID is defined by. Names are those of
pytorch-fid and torch-fidelity; branches stand in the order of their channels.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Unit(NamedTuple):
    """A convolution, batch norm and ReLU.

    Attributes:
      name: of its weights.
      channels: of the output.
      kernel: height and width.
      stride: along both.
      padded: whether zeros around the input keep its size.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class MaxPool(NamedTuple):
    """Maxima of 3 x 3 pixels, without padding; where the stride is 1, with it."""

    stride: int = 2


class MeanPool(NamedTuple):
    """Means of 3 x 3 pixels at stride 1; at the edges, of those that there are."""


class Branches(NamedTuple):
    """Paths from one input, whose outputs are joined along channels."""

    paths: tuple["Path", ...]


Path = tuple[Unit | MaxPool | MeanPool | Branches, ...]


def units(path: Path, channels: int) -> Iterator[tuple[Unit, int]]:
    """The units of a path, each with the channels of its input; `channels` of the path's."""
    for layer in path:
        if isinstance(layer, Branches):
            for branch in layer.paths:
                yield from units(branch, channels)
        elif isinstance(layer, Unit):
            yield layer, channels
        channels = _after(layer, channels)


def _after(layer: Unit | MaxPool | MeanPool | Branches, channels: int) -> int:
    if isinstance(layer, Branches):
        return sum(width(branch, channels) for branch in layer.paths)
    return layer.channels if isinstance(layer, Unit) else channels


def width(path: Path, channels: int) -> int:
    """Channels of a path's output."""
    for layer in path:
        channels = _after(layer, channels)
    return channels


def _named(block: str) -> Callable[..., Unit]:
    """Units of a block: "5x5_1", 48 is BLOCK.branch5x5_1 of 48 channels."""
    return lambda branch, *sizes: Unit(f"{block}.branch{branch}", *sizes)


def _block_a(name: str, pooled: int) -> Branches:
    unit = _named(name)
    return Branches((
        (unit("1x1", 64),),
        (unit("5x5_1", 48), unit("5x5_2", 64, (5, 5))),
        (unit("3x3dbl_1", 64), unit("3x3dbl_2", 96, (3, 3)), unit("3x3dbl_3", 96, (3, 3))),
        (MeanPool(), unit("_pool", pooled)),
    ))


def _block_b(name: str) -> Branches:
    unit, half = _named(name), ((3, 3), 2, False)
    return Branches((
        (unit("3x3", 384, *half),),
        (unit("3x3dbl_1", 64), unit("3x3dbl_2", 96, (3, 3)), unit("3x3dbl_3", 96, *half)),
        (MaxPool(),),
    ))


def _block_c(name: str, inner: int) -> Branches:
    unit, row, column = _named(name), (1, 7), (7, 1)
    return Branches((
        (unit("1x1", 192),),
        (unit("7x7_1", inner), unit("7x7_2", inner, row), unit("7x7_3", 192, column)),
        (
            unit("7x7dbl_1", inner), unit("7x7dbl_2", inner, column),
            unit("7x7dbl_3", inner, row), unit("7x7dbl_4", inner, column),
            unit("7x7dbl_5", 192, row),
        ),
        (MeanPool(), unit("_pool", 192)),
    ))


def _block_d(name: str) -> Branches:
    unit, half = _named(name), ((3, 3), 2, False)
    return Branches((
        (unit("3x3_1", 192), unit("3x3_2", 320, *half)),
        (
            unit("7x7x3_1", 192), unit("7x7x3_2", 192, (1, 7)), unit("7x7x3_3", 192, (7, 1)),
            unit("7x7x3_4", 192, *half),
        ),
        (MaxPool(),),
    ))


def _block_e(name: str, pool: MeanPool | MaxPool) -> Branches:
    unit = _named(name)

    def cross(branch: str) -> Branches:
        return Branches((
            (unit(branch + "a", 384, (1, 3)),), (unit(branch + "b", 384, (3, 1)),),
        ))

    return Branches((
        (unit("1x1", 320),),
        (unit("3x3_1", 384), cross("3x3_2")),
        (unit("3x3dbl_1", 448), unit("3x3dbl_2", 384, (3, 3)), cross("3x3dbl_3")),
        (pool, unit("_pool", 192)),
    ))


# From pixels to the last feature map, [8, 8, 2048] of an image of 299 x 299.
NETWORK: Path = (
    Unit("Conv2d_1a_3x3", 32, (3, 3), 2, False),
    Unit("Conv2d_2a_3x3", 32, (3, 3), 1, False),
    Unit("Conv2d_2b_3x3", 64, (3, 3)),
    MaxPool(),
    Unit("Conv2d_3b_1x1", 80),
    Unit("Conv2d_4a_3x3", 192, (3, 3), 1, False),
    MaxPool(),
    _block_a("Mixed_5b", 32),
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", MeanPool()),
    # The published graph has a maximum here, unlike torchvision.
    _block_e("Mixed_7c", MaxPool(1)),
)
