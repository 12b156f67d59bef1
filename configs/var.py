"""One-step students of VAR's class-conditional teachers, from their published weights.

    python conversion/torch_to_flax.py --model=var_tokenizer --checkpoint=vae_ch160v4096z32.pth
    python conversion/torch_to_flax.py --model=var --checkpoint=var_d16.pth
    python conversion/torch_to_flax.py --model=lpips --checkpoint=vgg16-397923af.pth \
        --linear=vgg.pth
    python conversion/torch_to_flax.py --model=inception \
        --checkpoint=pt_inception-2015-12-05-6726825d.pth
    python -m ddjax.main --config=configs/var.py:d16 --workdir=runs/var_d16

Depths d16, d20, d24, d30, all for 256 pixels. `tiny` has random weights and shows in two minutes on
a laptop that all stages run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddjax.config import common, complete
from ddjax.models import var_trunk
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

NAMES = (*var_trunk.SIZES, "tiny")
# Steps and split of the released students: scales 0 and 5, for the deeper ones 0 and 4.
STEPS = {"d16": (0, 5)}


def get_config(size: str = "d16") -> ConfigDict:
    """The whole job for a depth of the teacher: pairs, distill, evaluate, sample.

    Raises:
      UserError: there is no such depth.
    """
    return complete(keys(size))


def keys(size: str) -> dict[str, Any]:
    """The keys of `get_config` that are not at their defaults."""
    if size not in NAMES:
        raise UserError(f"configs/var.py:{size}: unknown depth; known are {', '.join(NAMES)}")
    return _tiny() if size == "tiny" else _published(size)


def _published(size: str) -> dict[str, Any]:
    steps = STEPS.get(size, (0, 4))
    k = steps[1]
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,"
        f"teacher_involved_{k - 1}_{k},teacher_involved_{k - 2}_{k},teacher_involved_0_{k},"
        "refine_1,refine_2,skip_1,skip_2,onestep_class,onestep_all"
    )
    return {
        **common.published(methods),
        "name": f"var_{size}",
        "data": {"name": "none", "image_size": 256, "num_classes": 1000},
        "tokenizer": {
            "kind": "var_tokenizer",
            "model": {"image_size": 256, "image_channels": 3, "vocab_size": 4096, "code_dim": 32,
                      "channels": 160, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 32},
            "weights": "conversion/weights/vae_ch160v4096z32",
        },
        "teacher": {
            "kind": "var",
            "model": {"vocab_size": 4096, "code_dim": 32, "num_classes": 1000,
                      "dtype": "bfloat16", **var_trunk.SIZES[size]},
            "weights": f"conversion/weights/var_{size}",
        },
        "guidance": {"scale": 1.5, "schedule": "linear", "top_k": 900, "top_p": 0.95},
        "student": {"kind": "var_student", "steps": steps, "split": k},
    }


def _tiny() -> dict[str, Any]:
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,"
        "teacher_involved_1_3,refine_1,skip_1,onestep_class"
    )
    scales = (1, 2, 3, 4)
    return {
        **common.tiny(methods),
        "name": "var_tiny",
        "tokenizer": {
            "kind": "var_tokenizer",
            "model": {"image_size": 64, "image_channels": 3, "vocab_size": 64, "code_dim": 32,
                      "channels": 32, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 32, "scales": scales},
            "weights": "random",
        },
        "teacher": {
            "kind": "var",
            "model": {"vocab_size": 64, "code_dim": 32, "width": 128, "layers": 2, "heads": 2,
                      "num_classes": 10, "scales": scales},
            "weights": "random",
        },
        "guidance": {"scale": 1.5, "schedule": "linear", "top_k": 40, "top_p": 0.95},
        "student": {"kind": "var_student", "steps": (0, 2), "split": 2},
    }
