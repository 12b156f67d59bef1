"""The whole job on a laptop: the 1,797 handwritten digits that scikit-learn bundles.

    python -m ddjax.main --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from ddjax.config import common, complete


def get_config() -> ConfigDict:
    """8x8 images as 4x4 tokens; sizes for two CPU cores and under ten minutes."""
    image_size, classes = 8, 10
    classifier = common.classifier(
        image_size, classes, channels=32,
        train={"steps": 600, "batch": 128, "learning_rate": 2e-3, "checkpoint_every": 200},
    )
    return complete({
        "name": "digits",
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "data": {"name": "digits", "image_size": image_size, "num_classes": classes, "copies": 20},
        "tokenizer": {
            "kind": "patch_tokenizer",
            "model": {"image_size": image_size, "image_channels": 1, "patch": 2,
                      "vocab_size": 48, "code_dim": 3, "width": 128},
            "train": {"steps": 2000, "batch": 64, "learning_rate": 3e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 48, "code_dim": 3, "grid": 4, "width": 96, "layers": 4,
                      "heads": 4, "num_classes": classes},
            "train": {"steps": 800, "batch": 64, "learning_rate": 2e-3, "weight_decay": 0.05,
                      "checkpoint_every": 200},
        },
        "guidance": {"scale": 1.5, "top_p": 0.95},
        "pairs": {"count": 50_000, "per_shard": 10_000, "batch": 1000},
        "student": {"kind": "llamagen_student", "steps": (0, 5), "split": 16},
        "distill": {
            "perceptual": 0.1,
            "perceptual_net": classifier,
            "validate_every": 500,
            "train": {"steps": 3000, "batch": 64, "learning_rate": 2e-3},
            "score": common.SCORE,
        },
        "evaluate": {"samples": 20_000, "batch": 500, "features": classifier,
                     "methods": common.METHODS_OF_16_TOKENS},
    })
