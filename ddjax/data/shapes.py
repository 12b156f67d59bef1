"""Pictures of shapes with captions, drawn from a grammar, and a checker that reads them back.

"a small red circle on the left", "a small red circle left of a large blue square": every caption
says colour, shape, size and place of one object, or of two. Small enough to train text to image on
a laptop, and exact enough to judge it: what a picture shows is read off its pixels.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which imports ndimage, that few commands need, where it is used

SIDE = 32

# Grey of the background, and the fewest pixels that the checker takes for an object.
GROUND, FEWEST = 0.08, 12

COLOURS = {
    "red": (0.9, 0.15, 0.15), "green": (0.15, 0.8, 0.2), "blue": (0.2, 0.35, 1.0),
    "yellow": (0.95, 0.85, 0.15),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 3.6, "large": 6.4}  # half the width, in pixels
PLACES = {"on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1),
          "at the bottom": (0, 1)}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

# Pixels from the centre of the picture to that of an object, and how far it may be moved.
_OUTWARD, _JITTER = 8.0, 0.8
# Points a side in which each pixel is sampled.
_FINE = 4


class Thing(NamedTuple):
    """An object: names of size, colour and shape."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


class Scene(NamedTuple):
    """One object at a place, or two in a relation.

    Attributes:
      things: one or two.
      where: of `PLACES` for one, of `RELATIONS` for two.
    """

    things: tuple[Thing, ...]
    where: str

    @property
    def caption(self) -> str:
        """In words."""
        if len(self.things) == 1:
            return f"{self.things[0]} {self.where}"
        return f"{self.things[0]} {self.where} {self.things[1]}"

    @property
    def direction(self) -> tuple[int, int]:
        """Where the first object is, from the centre: right and down."""
        return {**PLACES, **RELATIONS}[self.where]


@functools.cache
def scenes() -> tuple[Scene, ...]:
    """All scenes of the grammar, in an order that mixes them."""
    things = [Thing(*parts) for parts in itertools.product(SIZES, COLOURS, SHAPES)]
    one = [Scene((thing,), place) for thing in things for place in PLACES]
    two = [Scene(pair, relation) for pair in itertools.product(things, things)
           for relation in RELATIONS]
    order = np.random.default_rng(0).permutation(len(one) + len(two))
    return tuple((one + two)[i] for i in order)


def captions() -> list[str]:
    """One for each of `scenes`."""
    return [scene.caption for scene in scenes()]


def is_held_out(number: np.ndarray | int) -> np.ndarray | bool:
    """Whether no training picture shows the scene of a number: one in ten; of [N] numbers [N]."""
    return number % 10 == 9


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A picture [SIDE, SIDE, 3] in [0, 1] of a scene, its objects slightly moved."""
    fine = (np.arange(SIDE * _FINE) + 0.5) / _FINE
    x, y = np.meshgrid(fine, fine)
    picture = np.full((SIDE * _FINE, SIDE * _FINE, 3), GROUND)
    for sign, thing in zip((1, -1), scene.things, strict=False):
        right, down = (SIDE / 2 + sign * _OUTWARD * step for step in scene.direction)
        move = rng.uniform(-_JITTER, _JITTER, size=2)
        inside = _inside(thing.shape, x - right - move[0], y - down - move[1], SIZES[thing.size])
        picture[inside] = COLOURS[thing.colour]
    return picture.reshape(SIDE, _FINE, SIDE, _FINE, 3).mean(axis=(1, 3)).astype(np.float32)


def pictures(copies: int) -> dict[str, np.ndarray]:
    """The training pictures: so many of each scene that is not held out.

    Returns:
      {"image": float32 [N, 32, 32, 3] in [-1, 1], "condition": int32 [N], the number of the scene,
      "label": int32 [N], colour and shape of its first object, "source": int32 [N]}.
    """
    rng, kinds = np.random.default_rng(0), list(itertools.product(COLOURS, SHAPES))
    numbers = [i for _ in range(copies) for i in range(len(scenes())) if not is_held_out(i)]
    first = [scenes()[i].things[0] for i in numbers]
    return {
        "image": np.stack([2 * draw(scenes()[i], rng) - 1 for i in numbers]),
        "condition": np.array(numbers, np.int32),
        "label": np.array([kinds.index((one.colour, one.shape)) for one in first], np.int32),
        "source": np.arange(len(numbers), dtype=np.int32),
    }


def _inside(shape: str, x: np.ndarray, y: np.ndarray, half: float) -> np.ndarray:
    if shape == "circle":
        return x**2 + y**2 <= half**2
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= half
    return (np.abs(y) <= half) & (np.abs(x) <= (y + half) / 2)  # on its base, apex at the top


class Found(NamedTuple):
    """An object as the checker sees it, with the centre of its pixels."""

    thing: Thing
    x: float
    y: float


def find(picture: np.ndarray) -> list[Found]:
    """The objects of a picture [SIDE, SIDE, 3] in [0, 1].

    A pixel is between the background and one of the colours; connected pixels that have more than
    half of a colour are an object if they are enough, and those at its edge count in part. Its
    size is its extent, its shape follows from how much of the box around it is filled: a square
    fills all, a circle pi / 4, a triangle half.
    """
    paints = np.array(list(COLOURS.values())) - GROUND
    above = picture - GROUND
    # How much of each colour a pixel has, and what of it that leaves unexplained.
    share = np.clip(above @ paints.T / (paints**2).sum(-1), 0, 1)
    rest = ((above[:, :, None] - share[..., None] * paints) ** 2).sum(-1)
    nearest, found = rest.argmin(-1), []
    for number, colour in enumerate(COLOURS):
        own = np.where(nearest == number, share[..., number], 0)
        labels, count = scipy.ndimage.label(own > 0.5)
        for label in range(1, count + 1):
            mine = labels == label
            if mine.sum() < FEWEST:
                continue
            area = own * (scipy.ndimage.binary_dilation(mine) & (mine | (labels == 0)))
            width, height = area.sum(1).max(), area.sum(0).max()
            fill = area.sum() / (width * height)
            shape = "square" if fill > 0.89 else "circle" if fill > 0.73 else "triangle"
            size = "large" if width + height > 2 * sum(SIZES.values()) else "small"
            y, x = scipy.ndimage.center_of_mass(area)
            found.append(Found(Thing(size, colour, shape), x + 0.5, y + 0.5))
    return found


ASPECTS = ("colour", "shape", "size", "place")


def checked(pictures: np.ndarray, number_N: np.ndarray) -> np.ndarray:
    """What is right, bool [N, 4] by `ASPECTS`.

    Args:
      pictures: [N, SIDE, SIDE, 3] in [0, 1].
      number_N: of the scenes they should show.
    """
    pairs = zip(number_N, pictures, strict=True)
    return np.array([right(scenes()[number], picture) for number, picture in pairs])


def right(scene: Scene, picture: np.ndarray) -> tuple[bool, ...]:
    """Whether a picture [SIDE, SIDE, 3] in [0, 1] shows what a scene says, by `ASPECTS`.

    Colours are right if the objects have just these; shapes and sizes if the objects of these
    colours have them; the place if the objects, matched as well as they can be, stand so.
    """
    found = find(picture)
    if sorted(one.thing.colour for one in found) != sorted(one.colour for one in scene.things):
        return (False,) * len(ASPECTS)
    matches = [
        (_same(scene, order, "shape"), _same(scene, order, "size"), _stands(scene, order))
        for order in itertools.permutations(found)
        if all(a.thing.colour == b.colour for a, b in zip(order, scene.things, strict=True))
    ]
    return True, *max(matches, key=sum)


def _same(scene: Scene, order: Sequence[Found], name: str) -> bool:
    pairs = zip(order, scene.things, strict=True)
    return all(getattr(one.thing, name) == getattr(wanted, name) for one, wanted in pairs)


def _stands(scene: Scene, order: Sequence[Found]) -> bool:
    across, down = scene.direction
    if len(order) == 1:
        x, y = order[0].x - SIDE / 2, order[0].y - SIDE / 2
    else:
        x, y = order[0].x - order[1].x, order[0].y - order[1].y
    along, beside = (x, y) if across else (y, x)
    return along * (across or down) > max(abs(beside), 2.0)
