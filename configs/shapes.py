"""Text to image on two CPU cores: pictures of coloured shapes from captions of a small grammar.

    python -m ddjax.main --config=configs/shapes.py

"a small red circle left of a large blue square": tokenizer, teacher, pairs, student and table by
one command. A checker reads off the pixels what is right. The text encoder is a small T5 with
random weights, frozen, whose vocabulary is made from the captions.
"""

from ml_collections import ConfigDict

from ddjax.config import common, complete


def get_config() -> ConfigDict:
    """32x32 colour images as 8x8 tokens of 4x4 pixels."""
    image_size, tokens, width = 32, 12, 64
    classifier = {
        "kind": "classifier",
        "model": {"image_size": image_size, "image_channels": 3, "num_classes": 12,
                  "channels": 16},
        "train": {"steps": 600, "batch": 64, "learning_rate": 2e-3},
    }
    return complete({
        "name": "shapes",
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "data": {"name": "shapes", "image_size": image_size, "num_classes": 0, "copies": 8},
        "text": {
            "kind": "t5",
            "model": {"vocab_size": 96, "width": width, "heads": 4, "head_width": 16, "layers": 2,
                      "hidden": 128},
            "weights": "random",
            "clean": "lower",
        },
        "tokenizer": {
            "kind": "patch_tokenizer",
            "model": {"image_size": image_size, "image_channels": 3, "patch": 4,
                      "vocab_size": 256, "code_dim": 8, "width": 128},
            "train": {"steps": 3000, "batch": 32, "learning_rate": 3e-3},
        },
        "teacher": {
            "kind": "llamagen",
            "model": {"vocab_size": 256, "code_dim": 8, "grid": 8, "width": 96, "layers": 4,
                      "heads": 4, "caption_tokens": tokens, "caption_dim": width},
            "train": {"steps": 2500, "batch": 32, "learning_rate": 3e-3, "weight_decay": 0.05},
        },
        "guidance": {"scale": 1.5},
        "pairs": {"count": 32_000, "per_shard": 8_000, "batch": 500},
        "student": {"kind": "llamagen_student", "steps": (0, 20), "split": 64},
        "distill": {
            "perceptual_net": classifier,
            "perceptual": 0.0,
            "train": {"steps": 3000, "batch": 32, "learning_rate": 3e-3},
            "score": common.SCORE,
        },
        "evaluate": {
            "samples": 2400, "sets": 1, "batch": 400, "features": classifier,
            "methods": "teacher_ar,teacher_flow,student_1step,student_2step,refine_1,refine_2,"
                       "onestep_all",
        },
    })
