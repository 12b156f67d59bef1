"""Config: the settings of a run as frozen dataclasses, read from files and checked."""

from ddjax.config.reading import complete, from_dict
from ddjax.config.schema import Config

__all__ = ["Config", "complete", "from_dict"]
