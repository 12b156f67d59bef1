"""One-step students of LlamaGen's class-conditional teachers, from their published weights.

    python conversion/torch_to_flax.py --model=llamagen --checkpoint=c2i_L_256.pt
    python conversion/torch_to_flax.py --model=llamagen_tokenizer --checkpoint=vq_ds16_c2i.pt
    python conversion/torch_to_flax.py --model=lpips --checkpoint=vgg16-397923af.pth \
        --linear=vgg.pth
    python conversion/torch_to_flax.py --model=inception \
        --checkpoint=pt_inception-2015-12-05-6726825d.pth
    python -m ddjax.main --config=configs/llamagen.py:L --workdir=runs/llamagen_L

Sizes: B and L draw 256 pixels, XL, XXL and 3B 384, as they were published (convert these with
--grid=24); XXXL has no published weights.
`tiny` has random weights and shows in two minutes on a laptop that all stages run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddjax.config import common, complete
from ddjax.models import llamagen_trunk
from ddjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

NAMES = ("B", "L", "XL", "XXL", "XXXL", "3B", "tiny")
# Where the released students split the sequence between the two heads.
SPLIT = {"B": 80, "L": 130}


def get_config(size: str = "L") -> ConfigDict:
    """The whole job for a size of the teacher: pairs, distill, evaluate, sample.

    Raises:
      UserError: there is no such size.
    """
    return complete(keys(size))


def keys(size: str) -> dict[str, Any]:
    """The keys of `get_config` that are not at their defaults."""
    if size not in NAMES:
        raise UserError(f"configs/llamagen.py:{size}: unknown size; known are {', '.join(NAMES)}")
    return _tiny() if size == "tiny" else _published(size)


def _published(size: str) -> dict[str, Any]:
    image_size = 384 if size in ("XL", "XXL", "3B") else 256
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,"
        "teacher_involved_60_80,teacher_involved_40_80,teacher_involved_0_80,"
        "refine_1,refine_2,skip_106,skip_156,onestep_class,onestep_all"
    )
    return {
        **common.published(methods),
        "name": f"llamagen_{size}",
        "data": {"name": "none", "image_size": image_size, "num_classes": 1000},
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": image_size, "image_channels": 3, "vocab_size": 16384,
                      "code_dim": 8, "channels": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 256},
            "weights": "conversion/weights/vq_ds16_c2i",
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 16384, "code_dim": 8, "grid": image_size // 16,
                      "num_classes": 1000, "dtype": "bfloat16", **llamagen_trunk.SIZES[size]},
            "weights": f"conversion/weights/c2i_{size}_{image_size}",
        },
        "guidance": {"scale": 2.0, "top_k": 8000},
        # 99.95 % of tokens are those of a fine solve, by
        # python -m ddjax.compare_solvers --config=configs/llamagen.py:L --codebook=16384,8 \
        #     --tokens=8192
        "flow": {"steps": 28, "reach": 40.0},
        "student": {"kind": "llamagen_student", "steps": (0, 80), "split": SPLIT.get(size, 130)},
    }


def _tiny() -> dict[str, Any]:
    methods = (
        "teacher_ar,teacher_flow,student_1step,student_2step,"
        "teacher_involved_2_5,refine_1,skip_4,onestep_class"
    )
    return {
        **common.tiny(methods),
        "name": "llamagen_tiny",
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": 64, "image_channels": 3, "vocab_size": 64, "code_dim": 8,
                      "channels": 32, "multipliers": (1, 1, 2, 2, 4), "blocks": 2,
                      "z_channels": 64},
            "weights": "random",
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 64, "code_dim": 8, "grid": 4, "width": 128, "layers": 3,
                      "heads": 2, "num_classes": 10},
            "weights": "random",
        },
        "guidance": {"scale": 2.0, "top_k": 40},
        "student": {"kind": "llamagen_student", "steps": (0, 5), "split": 6},
    }
