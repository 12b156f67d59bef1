"""Fitting into memory: the largest batch of pairs, and the fewest parts of a training's batch.

No recomputation of activations (remat) is on offer: parts cost no operations, and go down to one
example a device.
"""

import bisect
import dataclasses
import operator
from typing import Any

from flax import nnx

from ddjax.config.schema import Config
from ddjax.plan import stages
from ddjax.plan.stages import StagePlan
from ddjax.runtime.devices import Device

# By stage, the key that sets how much of it is computed at once.
KEYS = {
    "pairs": "pairs.batch",
    "distill": "distill.train.accumulate",
    "fake model": "distill.score.fake.accumulate",
    "score": "distill.score.train.accumulate",
}
_PLANS = {
    "pairs": stages.pairs_stage,
    "distill": stages.distill_stage,
    "fake model": lambda *job: stages.score_stages(*job)[0],
    "score": lambda *job: stages.score_stages(*job)[1],
}


def settings(
    config: Config, nets: dict[str, nnx.Module], planned: list[StagePlan], devices: int,
    device: Device,
) -> dict[str, int | None]:
    """What to change for all stages to fit, even where their estimates double.

    Args:
      config: of the job.
      nets: see `stages.models`.
      planned: its stages.
      devices: how many.
      device: of which kind.

    Returns:
      by key of the config the value that computes most at once, where the config has another; None
      where no value is enough.
    """
    found = {}
    for stage in planned:
        key = KEYS[stage.name]
        values, given = _values(stage, devices), operator.attrgetter(key)(config)
        if given == values[0] and stage.fits(device):
            continue

        def fits(value: int, key: str = key, name: str = stage.name) -> bool:
            return _PLANS[name](_with(config, key, value), nets, devices).fits(device)

        at = bisect.bisect_left(values, True, key=fits)
        value = values[at] if at < len(values) else None
        if value != given:
            found[key] = value
    return found


def advice(found: dict[str, int | None], device: Device) -> list[str]:
    """Lines that say what to change."""
    named = " ".join(f"--config.{key}={value}" for key, value in found.items() if value)
    return [
        *([f"To fit into {device.memory / 1e9:.0f} GB with room for twice the estimates: {named}"]
          if named else []),
        *(f"No config.{key} is enough for {device.memory / 1e9:.0f} GB with room for twice the "
          "estimates: take more devices or a higher config.mesh.fsdp"
          for key, value in found.items() if value is None),
    ]


def _values(stage: StagePlan, devices: int) -> list[int]:
    """From the most at once to the least: halves of the pairs' batch, or numbers of parts."""
    each = stage.batch // devices
    if stage.name == "pairs":
        return [each >> i for i in range(each.bit_length())]
    return [parts for parts in range(1, each + 1) if each % parts == 0]


def _with(section: Any, key: str, value: int) -> Any:
    """A config with one key changed."""
    name, _, rest = key.partition(".")
    changed = _with(getattr(section, name), rest, value) if rest else value
    return dataclasses.replace(section, **{name: changed})
