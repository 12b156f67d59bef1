"""Conversion table of LPIPS: torchvision's VGG-16, and the weights of the distances."""

from conversion.tables import CONV, Rule, Shapes, Table, Transform, size
from ddjax.models.lpips import LPIPSConfig
from ddjax.runtime.errors import UserError

# Places of the convolutions in torchvision's `features`, by resolution.
_PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

_CHANNELS = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))
"""The weights [1, channels, 1, 1] of a level <-> [channels]."""


def _config(shapes: Shapes) -> LPIPSConfig:
    if "lin0.model.1.weight" not in shapes:
        raise UserError("it holds no weights of the distances; say --linear=vgg.pth")
    channels = (size(shapes, f"features.{places[0]}.weight", 0) for places in _PLACES)
    return LPIPSConfig(channels=tuple(channels))


LPIPS = Table(
    kind="lpips",
    rules=(
        *(
            rule
            for level, places in enumerate(_PLACES)
            for i, place in enumerate(places)
            for rule in (
                Rule(rf"features\.{place}\.weight", f"levels/{level}/convs/{i}/kernel", CONV),
                Rule(rf"features\.{place}\.bias", f"levels/{level}/convs/{i}/bias"),
            )
        ),
        Rule(r"lin([0-4])\.model\.1\.weight", "weights/{0}", _CHANNELS),
    ),
    ignored=(r"classifier\..*",),
    config=_config,
    invertible=False,  # torchvision wants its classifier too
)
