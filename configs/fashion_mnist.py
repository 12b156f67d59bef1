"""The job of configs/digits.py on Fashion-MNIST at 16x16: 60,000 images, so distances to the data
mean more. Under twenty minutes on two CPU cores.

    python -m ddjax.main --config=configs/fashion_mnist.py

Images come through TFDS, or from a folder with the IDX files:
--config.data.directory=/usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist).
"""

from ml_collections import ConfigDict

from ddjax.config import common, complete


def get_config() -> ConfigDict:
    """16x16 images as 4x4 tokens of 4x4 pixels."""
    image_size, classes = 16, 10
    classifier = common.classifier(
        image_size, classes, train={"steps": 1500, "batch": 128, "learning_rate": 2e-3}
    )
    return complete({
        "name": "fashion_mnist",
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "data": {"name": "fashion_mnist", "image_size": image_size, "num_classes": classes},
        "tokenizer": {
            "kind": "patch_tokenizer",
            "model": {"image_size": image_size, "image_channels": 1, "patch": 4,
                      "vocab_size": 64, "code_dim": 4, "width": 128},
            "train": {"steps": 3000, "batch": 64, "learning_rate": 3e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 64, "code_dim": 4, "grid": 4, "width": 96, "layers": 4,
                      "heads": 4, "num_classes": classes},
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
        },
        "evaluate": {"samples": 20_000, "batch": 500, "features": classifier,
                     "methods": common.METHODS_OF_16_TOKENS},
    })
