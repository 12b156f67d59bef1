"""The job of configs/digits.py on Fashion-MNIST: 60,000 images, so distances to the data mean more.

    python -m ddjax.main --config=configs/fashion_mnist.py
    python -m ddjax.main --config=configs/fashion_mnist.py:var

| | pixels a side | tokens | passes of the teacher |
| --- | ---: | ---: | ---: |
| (nothing behind the colon) | 16 | 16 | 16 |
| `64` | 32 | 64 | 64 |
| `256` | 32 | 256 | 256, as many as LlamaGen's |
| `var` | 16 | 30 in scales of 1, 4, 9 and 16 | 4 |

Images come through TFDS, or from a folder with the IDX files:
--config.data.directory=/usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist).
"""

from typing import Any

from ml_collections import ConfigDict

from ddjax.config import common, complete
from ddjax.runtime.errors import UserError

CLASSES = 10


def get_config(size: str = "16") -> ConfigDict:
    """The whole job for a size.

    Raises:
      UserError: there is no such size.
    """
    sizes = {"16": _raster_16, "64": _raster_64, "256": _raster_256, "var": _var}
    if size not in sizes:
        raise UserError(f"configs/fashion_mnist.py:{size}: unknown; known are {', '.join(sizes)}")
    return complete(sizes[size]())


def _classifier(image_size: int) -> dict[str, Any]:
    return common.classifier(
        image_size, CLASSES, train={"steps": 1500, "batch": 128, "learning_rate": 2e-3}
    )


def _job(image_size: int) -> dict[str, Any]:
    """What all sizes share."""
    return {
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "data": {"name": "fashion_mnist", "image_size": image_size, "num_classes": CLASSES},
    }


def _raster_16() -> dict[str, Any]:
    """16x16 images as 4x4 tokens of 4x4 pixels; under twenty minutes on two CPU cores."""
    classifier = _classifier(16)
    return {
        **_job(16),
        "name": "fashion_mnist",
        "tokenizer": {
            "kind": "patch_tokenizer",
            "model": {"image_size": 16, "image_channels": 1, "patch": 4,
                      "vocab_size": 64, "code_dim": 4, "width": 128},
            "train": {"steps": 3000, "batch": 64, "learning_rate": 3e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 64, "code_dim": 4, "grid": 4, "width": 96, "layers": 4,
                      "heads": 4, "num_classes": CLASSES},
            "train": {"steps": 3000, "batch": 64, "learning_rate": 2e-3, "weight_decay": 0.05},
        },
        "pairs": {"count": 100_000, "per_shard": 10_000, "batch": 1000},
        "student": {"kind": "llamagen_student", "steps": (0, 5), "split": 16},
        "distill": {
            # The perceptual loss trains the vector head, which a split of 16 never reads.
            "perceptual": 0.0,
            "perceptual_net": classifier,
            "validate_every": 1000,
            "train": {"steps": 9000, "batch": 64, "learning_rate": 2e-3},
            "score": common.SCORE,
        },
        "evaluate": {"samples": 20_000, "batch": 500, "features": classifier,
                     "methods": common.METHODS_OF_16_TOKENS},
    }


def _raster_64() -> dict[str, Any]:
    """32x32 images as 8x8 tokens of LlamaGen's convolutional tokenizer."""
    classifier = _classifier(32)
    return {
        **_job(32),
        "name": "fashion_mnist_64",
        "tokenizer": {
            "kind": "llamagen_tokenizer",
            "model": {"image_size": 32, "image_channels": 1, "vocab_size": 256, "code_dim": 8,
                      "channels": 16, "multipliers": (1, 2, 2), "blocks": 1, "z_channels": 32,
                      "norm_groups": 8},
            **common.VQ_TRAINING,
            "train": {"steps": 2000, "batch": 32, "learning_rate": 1e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 256, "code_dim": 8, "grid": 8, "width": 96, "layers": 4,
                      "heads": 4, "num_classes": CLASSES},
            "train": {"steps": 4000, "batch": 64, "learning_rate": 2e-3, "weight_decay": 0.05},
        },
        "pairs": {"count": 60_000, "per_shard": 10_000, "batch": 500},
        "student": {"kind": "llamagen_student", "steps": (0, 20), "split": 64},
        "distill": {
            "perceptual": 0.0,
            "perceptual_net": classifier,
            "train": {"steps": 8000, "batch": 64, "learning_rate": 2e-3},
        },
        "evaluate": {
            "samples": 5000, "batch": 500, "features": classifier,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_10_20,refine_1,refine_2,skip_16,onestep_class,onestep_all",
        },
    }


def _raster_256() -> dict[str, Any]:
    """32x32 images as 16x16 tokens of 2x2 pixels."""
    classifier = _classifier(32)
    return {
        **_job(32),
        "name": "fashion_mnist_256",
        "tokenizer": {
            "kind": "patch_tokenizer",
            "model": {"image_size": 32, "image_channels": 1, "patch": 2,
                      "vocab_size": 64, "code_dim": 4, "width": 64},
            "train": {"steps": 2000, "batch": 16, "learning_rate": 3e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 64, "code_dim": 4, "grid": 16, "width": 96, "layers": 4,
                      "heads": 4, "num_classes": CLASSES},
            "train": {"steps": 3000, "batch": 16, "learning_rate": 2e-3, "weight_decay": 0.05},
        },
        "pairs": {"count": 20_000, "per_shard": 5000, "batch": 250},
        "student": {"kind": "llamagen_student", "steps": (0, 80), "split": 256},
        "distill": {
            "perceptual": 0.0,
            "perceptual_net": classifier,
            "train": {"steps": 6000, "batch": 16, "learning_rate": 2e-3},
        },
        "evaluate": {
            "samples": 2000, "sets": 2, "batch": 250, "features": classifier,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_41_81,refine_1,refine_2,skip_106,onestep_class,onestep_all",
        },
    }


def _var() -> dict[str, Any]:
    """16x16 images in four scales, by VAR's models: tokenizer, teacher and student."""
    classifier, scales = _classifier(16), (1, 2, 3, 4)
    return {
        **_job(16),
        "name": "fashion_mnist_var",
        "tokenizer": {
            "kind": "var_tokenizer",
            "model": {"image_size": 16, "image_channels": 1, "vocab_size": 128, "code_dim": 8,
                      "channels": 16, "multipliers": (1, 2, 2), "blocks": 1, "z_channels": 32,
                      "norm_groups": 8, "scales": scales},
            **common.VQ_TRAINING,
            "train": {"steps": 2000, "batch": 64, "learning_rate": 2e-3},
        },
        "teacher": {
            "kind": "var",
            "model": {"vocab_size": 128, "code_dim": 8, "width": 96, "layers": 4, "heads": 4,
                      "num_classes": CLASSES, "scales": scales},
            "train": {"steps": 2500, "batch": 64, "learning_rate": 2e-3, "weight_decay": 0.05},
        },
        "pairs": {"count": 60_000, "per_shard": 10_000, "batch": 1000},
        "student": {"kind": "var_student", "steps": (0, 2), "split": 4},
        "distill": {
            "perceptual": 0.0,
            "perceptual_net": classifier,
            "train": {"steps": 5000, "batch": 64, "learning_rate": 2e-3},
            "score": common.SCORE,
        },
        "evaluate": {
            "samples": 5000, "batch": 500, "features": classifier,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,"
                       "teacher_involved_1_2,refine_1,refine_2,skip_1,onestep_class,onestep_all",
        },
    }
