"""Common parts of configs, for the files under configs/ and for one's own."""

from typing import Any

# Made by conversion/torch_to_flax.py --model=lpips, see docs/conversion.md.
LPIPS = {
    "kind": "lpips",
    "model": {"dtype": "bfloat16"},
    "weights": "conversion/weights/vgg16-397923af",
}

# Made by --model=inception; float32, since the figures of others are.
INCEPTION = {
    "kind": "inception",
    "model": {"resize": "tf1"},
    "weights": "conversion/weights/pt_inception-2015-12-05-6726825d",
}

# Ways of sampling that a run of 16 tokens compares.
METHODS_OF_16_TOKENS = (
    "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_2_6,"
    "refine_1,refine_2,skip_4,onestep_class,onestep_all"
)


def classifier(image_size: int, classes: int, **changes: Any) -> dict[str, Any]:
    """A small classifier for grey images: its features stand where Inception's do for photographs.

    Args:
      image_size: pixels a side.
      classes: how many.
      changes: keys of the section beside `model`, or other `channels`.
    """
    channels = changes.pop("channels", 16)
    sizes = {"image_size": image_size, "image_channels": 1, "num_classes": classes,
             "channels": channels}
    return {"kind": "classifier", "model": sizes, **changes}


def published(methods: str, net: dict[str, Any]) -> dict[str, Any]:
    """What the published sizes of all families share: pairs, distillation, evaluation.

    Args:
      methods: rows of the report.
      net: of the perceptual loss and of the distances.
    """
    return {
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
        "pairs": {"count": 1_200_000, "per_shard": 12_800, "batch": 128},
        "distill": {
            "perceptual_net": net,
            "validate_every": 10_000,
            "validate_samples": 5000,
            "train": {"steps": 300_000, "batch": 256, "learning_rate": 1e-4, "warmup": 1000,
                      "weight_decay": 0.05, "ema": 0.9999, "checkpoint_every": 1000},
        },
        "evaluate": {"samples": 5000, "sets": 1, "batch": 50, "methods": methods, "features": net},
    }


def tiny(methods: str) -> dict[str, Any]:
    """What the `tiny` sizes share: 64 x 64 pixels, random weights, minutes on a laptop.

    Args:
      methods: rows of the report.
    """
    net = {
        "kind": "classifier",
        "model": {"image_size": 64, "image_channels": 3, "num_classes": 10, "channels": 8,
                  "features": 16},
        "weights": "random",
    }
    return {
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
        "data": {"name": "none", "image_size": 64, "num_classes": 10},
        "pairs": {"count": 64, "per_shard": 32, "batch": 16},
        "distill": {
            "perceptual_net": net,
            "train": {"steps": 10, "batch": 4, "learning_rate": 1e-4, "warmup": 2},
        },
        "evaluate": {"samples": 20, "sets": 1, "batch": 10, "methods": methods, "features": net},
        "sample": {"count": 10},
    }
