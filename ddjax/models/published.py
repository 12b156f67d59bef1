"""Published weights: how the converter is called for the files of a class of models."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """Flags of conversion/torch_to_flax.py besides the kind of model.

    A model class has it as its attribute `published`; None where no weights are.

    Attributes:
      suffix: of the files.
      defaults: keys of the config that a file does not hold, and the converter sets by flags of the
        same names, each with the value that it takes without its flag.
      flags: further ones.
    """

    suffix: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def command(self, kind: str, name: str, config: Any) -> str:
        """The command that makes the model folder `name` of a kind, of the sizes of a config."""
        words = ["python conversion/torch_to_flax.py", f"--model={kind}",
                 f"--checkpoint={name}.{self.suffix}"]
        for key, default in self.defaults.items():
            value = getattr(config, key)
            if value != default:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                words.append(f"--{key}={shown}")
        return " ".join([*words, *self.flags])
