"""Tiny checkpoints in the published layout, and what the original PyTorch code computed from them.

`NAME.pt` holds random weights, `NAME.npz` inputs and outputs, float32 on a CPU. Their own noise is
3e-6 in logits, 2e-5 in guided logits, 1e-5 in images; the tolerances here tell an epsilon of
1e-5 from one of 1e-6.
"""

from pathlib import Path

import numpy as np

from conversion import torch_to_flax
from ddjax import weights

FOLDER = Path(__file__).parent / "golden"
LOGITS, GUIDED, IMAGES = 2e-5, 1e-4, 1e-4


def arrays(name):
    return dict(np.load(FOLDER / f"{name}.npz"))


def converted(tmp, name, model, others=(), **given):
    """The model of a golden checkpoint and others, by the converter and back from its folder."""
    files = [FOLDER / f"{file}.pt" for file in (name, *others)]
    torch_to_flax.convert(model, files, tmp / name, None, given)
    return weights.load(tmp / name)


def assert_close(found, wanted, tolerance):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=tolerance)
