"""One-step students of VAR's class-conditional teachers, from their published weights.

    python conversion/torch_to_flax.py --model=var_tokenizer --checkpoint=vae_ch160v4096z32.pth
    python conversion/torch_to_flax.py --model=var --checkpoint=var_d16.pth
    python conversion/torch_to_flax.py --model=lpips --checkpoint=vgg16-397923af.pth \
        --linear=vgg.pth
    python -m ddjax.main --config=configs/var.py:d16 --workdir=runs/var_d16

Depths d16, d20, d24, d30, all for 256 pixels. `tiny` has random weights and shows in two minutes on
a laptop that all stages run.
"""

from typing import Any

from ml_collections import ConfigDict

from ddjax.config_file import complete
from ddjax.errors import UserError
from ddjax.models import var_trunk

NAMES = (*var_trunk.SIZES, "tiny")
# Steps and split of the released students: scales 0 and 5, for the deeper ones 0 and 4.
STEPS = {"d16": (0, 5)}
VGG = "conversion/weights/vgg16-397923af"


def get_config(size: str = "d16") -> ConfigDict:
    """The whole job for a depth of the teacher: pairs, distill, evaluate, sample.

    Raises:
      UserError: there is no such depth.
    """
    if size not in NAMES:
        raise UserError(f"configs/var.py:{size}: unknown depth; known are {', '.join(NAMES)}")
    return complete(_tiny() if size == "tiny" else _published(size))


def _published(size: str) -> dict[str, Any]:
    steps = STEPS.get(size, (0, 4))
    k = steps[1]
    lpips = {"kind": "lpips", "model": {"dtype": "bfloat16"}, "weights": VGG}
    return {
        "name": f"var_{size}",
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
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
        "flow": {"steps": 32, "order": 5, "reach": 60.0},
        "pairs": {"count": 1_200_000, "per_shard": 12_800, "batch": 128},
        "student": {"kind": "var_student", "steps": steps, "split": k},
        "distill": {
            "cross_entropy": 1.0,
            "perceptual": 1.0,
            "perceptual_net": lpips,
            "train": {"steps": 300_000, "batch": 256, "learning_rate": 1e-4, "warmup": 1000,
                      "weight_decay": 0.05, "ema": 0.9999, "checkpoint_every": 1000},
        },
        "evaluate": {
            "samples": 5000,
            "batch": 50,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       f"teacher_involved_{k - 1}_{k},teacher_involved_{k - 2}_{k},"
                       f"teacher_involved_0_{k},"
                       "refine_1,refine_2,skip_1,skip_2,onestep_class,onestep_all",
            "features": lpips,
        },
        "sample": {"method": "student", "passes": 1, "first": k - 1, "last": k, "count": 20},
    }


def _tiny() -> dict[str, Any]:
    net = {
        "kind": "classifier",
        "model": {"image_size": 64, "image_channels": 3, "num_classes": 10, "channels": 8,
                  "features": 16},
        "weights": "random",
    }
    scales = (1, 2, 3, 4)
    return {
        "name": "var_tiny",
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
        "data": {"name": "none", "image_size": 64, "num_classes": 10},
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
        "flow": {"steps": 32, "order": 5, "reach": 60.0},
        "pairs": {"count": 64, "per_shard": 32, "batch": 16},
        "student": {"kind": "var_student", "steps": (0, 2), "split": 2},
        "distill": {
            "perceptual_net": net,
            "train": {"steps": 10, "batch": 4, "learning_rate": 1e-4, "warmup": 2},
        },
        "evaluate": {
            "samples": 20,
            "batch": 10,
            "resamplings": 1,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_1_3,refine_1,skip_1,onestep_class",
            "features": net,
        },
        "sample": {"count": 10},
    }
