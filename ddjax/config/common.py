"""Common parts of configs, for the files under configs/ and for one's own."""

from typing import Any

from ddjax.config.schema import TURNS

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

# Without weights there is no CLIP score. Made by conversion/torch_to_flax.py --model=clip.
CLIP = {"kind": "clip", "model": {}, "weights": "", "vocabulary": ""}

# Ways of sampling that a run of 16 tokens compares.
METHODS_OF_16_TOKENS = (
    "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_2_6,"
    "refine_1,refine_2,skip_4,onestep_class,onestep_all"
)


# How LlamaGen's and VAR's tokenizers are trained from scratch, beside `model` and `train`.
VQ_TRAINING = {"entropy": 0.0, "revive_every": 50, "hold_out": True}


# Read where distill.method has "score": short beside the training of the map.
SCORE = {
    "train": {"steps": 800, "batch": 64, "learning_rate": 2e-4, "warmup": 20,
              "checkpoint_every": 100},
    "fake": {"steps": 400, "batch": 64, "learning_rate": 1e-3, "warmup": 20},
    "fake_updates": 3,
    "fake_rate": 5.0,
}


def classifier(image_size: int, classes: int, **changes: Any) -> dict[str, Any]:
    """A small classifier: its features stand where Inception's do for photographs.

    Args:
      image_size: pixels a side.
      classes: how many; 1 for none, where the net tells quarter turns apart.
      changes: keys of the section beside `model`, or other `channels` or `image_channels`.
    """
    sizes = {"image_size": image_size, "image_channels": changes.pop("image_channels", 1),
             "num_classes": TURNS if classes == 1 else classes,
             "channels": changes.pop("channels", 16)}
    return {"kind": "classifier", "model": sizes, **changes}


def published(methods: str) -> dict[str, Any]:
    """What the published sizes of all families share: pairs, distillation, evaluation.

    The perceptual loss is LPIPS, and images are measured by Inception, as the field does.

    Args:
      methods: rows of the report.
    """
    return {
        "seed": 0,
        "stages": "pairs,distill,evaluate,sample",
        "pairs": {"count": 1_200_000, "per_shard": 12_800, "batch": 128},
        "distill": {
            "perceptual_net": LPIPS,
            "validate_every": 10_000,
            "validate_samples": 5000,
            "train": {"steps": 300_000, "batch": 256, "learning_rate": 1e-4, "warmup": 1000,
                      "weight_decay": 0.05, "ema": 0.9999, "checkpoint_every": 1000},
        },
        "evaluate": {"samples": 5000, "sets": 1, "batch": 50, "methods": methods,
                     "features": INCEPTION},
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


def colour(image_size: int, classes: int, scale: int = 1) -> dict[str, Any]:
    """A whole job on colour images of 8x8 tokens, from scratch, but for its name and its data.

    LlamaGen's VQ tokenizer with a perceptual loss, LlamaGen's teacher and student.

    Args:
      image_size: pixels a side, 8 times a power of two.
      classes: how many; 1 for none.
      scale: of all widths, and of the lengths of the trainings; 1 is for two CPU cores.
    """
    net = classifier(
        image_size, classes, image_channels=3, channels=16 * scale,
        train={"steps": 1000 * scale, "batch": 64, "learning_rate": 2e-3},
    )
    halvings = (image_size // 8).bit_length() - 1
    grid, vocab, code_dim, width = 8, 256 * scale, 8, 128 * scale
    return {
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": image_size, "image_channels": 3, "vocab_size": vocab,
                      "code_dim": code_dim, "channels": 16 * scale,
                      "multipliers": (1, *(2,) * (halvings - 1), 4)[: halvings + 1], "blocks": 1,
                      "z_channels": 64 * scale, "norm_groups": 8},
            **VQ_TRAINING,
            "perceptual": 0.1,
            "perceptual_net": net,
            "train": {"steps": 3000 * scale, "batch": 32, "learning_rate": 1e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": vocab, "code_dim": code_dim, "grid": grid, "width": width,
                      "layers": 4 * scale, "heads": 4 * scale, "num_classes": classes},
            "train": {"steps": 4000 * scale, "batch": 32, "learning_rate": 1e-3,
                      "weight_decay": 0.05},
        },
        "pairs": {"count": 40_000 * scale, "per_shard": 10_000, "batch": 500},
        "student": {"kind": "llamagen_student", "steps": (0, 20), "split": grid**2},
        "distill": {
            "perceptual": 0.0,
            "perceptual_net": net,
            "train": {"steps": 5000 * scale, "batch": 32, "learning_rate": 1e-3},
        },
        "evaluate": {
            "samples": 4000, "batch": 250, "features": net,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_10_20,refine_1,refine_2,skip_16,onestep_class,onestep_all",
        },
    }
