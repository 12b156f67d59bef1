"""Published figures of Distilled Decoding 1: tables 1 to 3 of arXiv 2412.17153.

ImageNet at 256 x 256, but for text to image, which is of prompts from LAION-COCO. Transcribed as
they are printed; seconds are of an image on the authors' GPU.
"""

from typing import NamedTuple

from ddjax.config.schema import Config
from ddjax.models import llamagen_trunk, var_trunk
from ddjax.runtime.errors import UserError

SOURCE = "arXiv 2412.17153"

TABLES = {
    1: "Table 1: teachers, baselines and students",
    2: "Table 2: students with the teacher involved",
    3: "Table 3: text to image",
}

# The pixels a side of all rows.
IMAGE_SIZE = 256


class Published(NamedTuple):
    """A row of a table; None where it has no figure.

    Attributes:
      table: its number.
      name: of the row there.
      method: our name of that way of sampling, which counts groups from 0 and not from 1.
      passes: "steps" there.
      fid: lower is better.
      inception_score: higher is better.
      precision: likewise.
      recall: likewise.
      seconds_per_image: on the authors' GPU.
      speedup: over the teacher.
    """

    table: int
    name: str
    method: str
    passes: int
    fid: float
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    seconds_per_image: float | None = None
    speedup: float | None = None


_ONE, _TWO = ("DD 1 step", "student_1step", 1), ("DD 2 steps", "student_2step", 2)

# By family and size of the teacher.
ROWS: dict[tuple[str, str], tuple[Published, ...]] = {
    ("var", "d16"): (
        Published(1, "VAR-d16", "teacher_ar", 10, 4.19, 230.2, 0.84, 0.48, 0.133),
        Published(1, "skip-1", "skip_1", 9, 9.52, 178.9, 0.68, 0.54, 0.113),
        Published(1, "skip-2", "skip_2", 8, 40.09, 56.8, 0.46, 0.50, 0.098),
        Published(1, "onestep*", "onestep_all", 1, 157.5),
        Published(1, *_ONE, 9.94, 193.6, 0.80, 0.37, 0.021, 6.3),
        Published(1, *_TWO, 7.82, 197.0, 0.80, 0.41, 0.036, 3.7),
        Published(2, "teacher 1-6", "teacher_involved_0_5", 6, 5.03, 242.8, 0.84, 0.45, 0.090),
        Published(2, "teacher 4-6", "teacher_involved_3_5", 4, 5.47, 230.5, 0.84, 0.43, 0.062),
        Published(2, "teacher 5-6", "teacher_involved_4_5", 3, 6.54, 210.8, 0.83, 0.42, 0.045),
    ),
    ("var", "d20"): (
        Published(1, "VAR-d20", "teacher_ar", 10, 3.35, 301.4, 0.84, 0.51),
        Published(1, *_ONE, 9.55, 197.2, 0.78, 0.38),
        Published(1, *_TWO, 7.33, 204.5, 0.82, 0.40),
    ),
    ("var", "d24"): (
        Published(1, "VAR-d24", "teacher_ar", 10, 2.51, 312.2, 0.82, 0.53),
        Published(1, *_ONE, 8.92, 202.8, 0.78, 0.39),
        Published(1, *_TWO, 6.95, 222.5, 0.83, 0.43),
    ),
    ("llamagen", "B"): (
        Published(1, "LlamaGen-B", "teacher_ar", 256, 5.42, 193.5, 0.83, 0.44),
        Published(1, *_ONE, 15.50, 135.4, 0.76, 0.26),
        Published(1, *_TWO, 11.17, 154.8, 0.80, 0.31),
    ),
    ("llamagen", "L"): (
        Published(1, "LlamaGen-L", "teacher_ar", 256, 4.11, 283.5, 0.85, 0.48, 5.01),
        Published(1, "skip-106", "skip_106", 150, 19.14, 80.39, 0.42, 0.43, 2.94),
        Published(1, "skip-156", "skip_156", 100, 80.72, 12.13, 0.17, 0.20, 1.95),
        Published(1, "onestep*", "onestep_all", 1, 220.2),
        Published(1, *_ONE, 11.35, 193.6, 0.81, 0.30, 0.023, 217.8),
        Published(1, *_TWO, 7.58, 237.5, 0.84, 0.37, 0.043, 116.5),
        Published(2, "teacher 1-81", "teacher_involved_0_80", 81, 5.71, 238.6, 0.83, 0.43, 1.725),
        Published(2, "teacher 41-81", "teacher_involved_40_80", 42, 6.20, 233.8, 0.83, 0.41, 0.880),
        Published(2, "teacher 61-81", "teacher_involved_60_80", 22, 6.76, 231.4, 0.83, 0.40, 0.447),
    ),
    ("llamagen_t2i", "XL"): (
        Published(3, "LlamaGen, 775M", "teacher_ar", 256, 25.70, seconds_per_image=7.90),
        Published(3, *_ONE, 36.09, seconds_per_image=0.052, speedup=151.9),
        Published(3, *_TWO, 28.95, seconds_per_image=0.085, speedup=92.9),
    ),
}


def rows_of(config: Config) -> tuple[Published, ...]:
    """The rows of a config's teacher.

    Raises:
      UserError: the paper has none.
    """
    family, size = _family_and_size(config)
    pixels = config.data.image_size
    found = ROWS.get((family, size))
    if found is None or pixels != IMAGE_SIZE:
        known = ", ".join(f"{family} {size}" for family, size in ROWS)
        raise UserError(
            f"config.teacher: the paper has no rows for {family} {size} at {pixels} pixels; it has "
            f"some for {known}, at {IMAGE_SIZE} pixels"
        )
    return found


def _family_and_size(config: Config) -> tuple[str, str]:
    """Of a teacher, by what it is made of."""
    family, model = config.teacher.kind, config.teacher.model
    sizes = {"llamagen": llamagen_trunk.SIZES, "var": var_trunk.SIZES}[family]
    fits = [name for name, numbers in sizes.items()
            if all(getattr(model, key) == value for key, value in numbers.items())]
    return f"{family}_t2i" if config.has_captions else family, (*fits, "of another size")[0]
