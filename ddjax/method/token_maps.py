"""Token maps: the square maps of tokens that an image consists of."""

from typing import NamedTuple


class TokenMaps(NamedTuple):
    """The maps in the order of the sequence, each in raster order.

    LlamaGen: one map of 16 x 16 tokens. VAR: ten, from 1 x 1 to 16 x 16.

    Attributes:
      key: of the config that they follow from, for messages.
      sides: tokens a side of each map.
    """

    key: str
    sides: tuple[int, ...]
