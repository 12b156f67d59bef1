"""Conversion table of Inception-v3 as FID reads it, from pytorch-fid's or torch-fidelity's file."""

from conversion.convolutions import layer_rules
from conversion.tables import CONV, LINEAR, Rule, Shapes, Table, size
from ddjax.models.inception import CLASSES, InceptionConfig
from ddjax.models.inception_blocks import NETWORK
from ddjax.runtime.errors import UserError

_UNIT = r"(Conv2d_\w+|Mixed_\w+\.\w+)"
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}


def _config(shapes: Shapes) -> InceptionConfig:
    classes = size(shapes, "fc.weight", 0)
    if classes != CLASSES:
        raise UserError(
            f"it has {classes} classes, where the network of FID has {CLASSES}: torchvision's "
            "Inception-v3 is another; take pt_inception-2015-12-05-6726825d.pth of pytorch-fid"
        )
    channels = size(shapes, f"{NETWORK[0].name}.conv.weight", 0)
    return InceptionConfig(divisor=NETWORK[0].channels // channels)


INCEPTION = Table(
    kind="inception",
    rules=(
        Rule(_UNIT + r"\.conv\.weight", "units/{0}/kernel", CONV),
        *(Rule(rf"{_UNIT}\.bn\.{theirs}", f"units/{{0}}/{ours}") for theirs, ours in _NORM.items()),
        *layer_rules("fc", "fc", LINEAR),
    ),
    ignored=(r".*\.num_batches_tracked",),  # counts steps of training
    config=_config,
    places=((),),
)
