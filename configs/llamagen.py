"""One-step students of LlamaGen's class-conditional teachers, from their published weights.

    python conversion/torch_to_flax.py --model=llamagen --checkpoint=c2i_L_256.pt
    python conversion/torch_to_flax.py --model=llamagen_tokenizer --checkpoint=vq_ds16_c2i.pt
    python conversion/torch_to_flax.py --model=lpips --checkpoint=vgg16-397923af.pth \
        --linear=vgg.pth
    python -m ddjax.main --config=configs/llamagen.py:L --workdir=runs/llamagen_L

Sizes: B and L draw 256 pixels, XL, XXL and 3B 384, as they were published (convert these with
--grid=24); XXXL has no published weights.
`tiny` has random weights and shows in two minutes on a laptop that all stages run.
"""

from typing import Any

from ml_collections import ConfigDict

from ddjax.config_file import complete
from ddjax.errors import UserError
from ddjax.models import llamagen

VGG = "conversion/weights/vgg16-397923af"
NAMES = ("B", "L", "XL", "XXL", "XXXL", "3B", "tiny")
# Where the released students split the sequence between the two heads.
SPLIT = {"B": 80, "L": 130}


def get_config(size: str = "L") -> ConfigDict:
    """The whole job for a size of the teacher: pairs, distill, evaluate, sample.

    Raises:
      UserError: there is no such size.
    """
    if size not in NAMES:
        raise UserError(f"configs/llamagen.py:{size}: unknown size; known are {', '.join(NAMES)}")
    return complete(_tiny() if size == "tiny" else _published(size))


def _published(size: str) -> dict[str, Any]:
    image_size = 384 if size in ("XL", "XXL", "3B") else 256
    grid = image_size // 16
    lpips = {"kind": "lpips", "model": {"dtype": "bfloat16"}, "weights": VGG}
    return {
        "name": f"llamagen_{size}",
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
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
            "model": {"vocab_size": 16384, "code_dim": 8, "grid": grid, "num_classes": 1000,
                      "dtype": "bfloat16", **llamagen.SIZES[size]},
            "weights": f"conversion/weights/c2i_{size}_{image_size}",
        },
        "guidance": {"scale": 2.0, "top_k": 8000},
        # 99.95 % of tokens are those of a fine solve, by
        # python -m ddjax.solvers --config=configs/llamagen.py:L --codebook=16384,8 --tokens=8192
        "flow": {"steps": 28, "order": 5, "reach": 40.0},
        "pairs": {"count": 1_200_000, "per_shard": 12_800, "batch": 128},
        "student": {"kind": "llamagen_student", "steps": (0, 80), "split": SPLIT.get(size, 130)},
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
                       "teacher_involved_60_80,teacher_involved_40_80,teacher_involved_0_80,"
                       "refine_1,refine_2,skip_106,skip_156,onestep_class,onestep_all",
            "features": lpips,
        },
        "sample": {"method": "student", "passes": 1, "first": 60, "last": 80, "count": 20},
    }


def _tiny() -> dict[str, Any]:
    net = {
        "kind": "classifier",
        "model": {"image_size": 64, "image_channels": 3, "num_classes": 10, "channels": 8,
                  "features": 16},
        "weights": "random",
    }
    return {
        "name": "llamagen_tiny",
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
        "data": {"name": "none", "image_size": 64, "num_classes": 10},
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
        "flow": {"steps": 32, "order": 5, "reach": 60.0},
        "pairs": {"count": 64, "per_shard": 32, "batch": 16},
        "student": {"kind": "llamagen_student", "steps": (0, 5), "split": 6},
        "distill": {
            "perceptual_net": net,
            "train": {"steps": 10, "batch": 4, "learning_rate": 1e-4, "warmup": 2},
        },
        "evaluate": {
            "samples": 20,
            "batch": 10,
            "resamplings": 1,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_2_5,refine_1,skip_4,onestep_class",
            "features": net,
        },
        "sample": {"count": 10},
    }
