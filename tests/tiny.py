"""The digits job in miniature: every stage, in seconds. A config file like those in configs/."""

from ddjax.config import complete

IMAGE = {"image_size": 8, "image_channels": 1, "vocab_size": 16, "code_dim": 4}
TOKENIZERS = {
    "patch_tokenizer": {**IMAGE, "patch": 2, "width": 8},
    "llamagen_tokenizer": {**IMAGE, "channels": 4, "multipliers": (1, 1), "blocks": 1,
                           "z_channels": 4, "norm_groups": 2},
    "var_tokenizer": {**IMAGE, "channels": 4, "multipliers": (1, 1), "blocks": 1, "z_channels": 4,
                      "norm_groups": 2, "scales": (1, 2, 4)},
}
# Of teacher and student, by the tokenizer's kind.
FAMILIES = {
    "var_tokenizer": ("var", "var_student", {"scales": (1, 2, 4)}, (0, 1), 2,
                      "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_1_2,"
                      "refine_1,skip_1,onestep_class,onestep_all"),
}
LLAMAGEN = ("llamagen", "llamagen_student", {"grid": 4}, (0, 5), 10,
            "teacher_ar,teacher_flow,student_1step,student_2step,teacher_involved_2_6,refine_1,"
            "refine_2,skip_4,onestep_class,onestep_all")


def get_config(tokenizer="patch_tokenizer"):
    teacher, student, grid, steps, split, methods = FAMILIES.get(tokenizer, LLAMAGEN)
    classifier = {
        "kind": "classifier",
        "model": {"image_size": 8, "image_channels": 1, "num_classes": 10, "channels": 4,
                  "features": 8},
        "train": {"steps": 8, "batch": 16, "learning_rate": 1e-3, "warmup": 2,
                  "checkpoint_every": 4},
    }
    train = {"steps": 12, "batch": 8, "learning_rate": 1e-3, "warmup": 2, "log_every": 1,
             "checkpoint_every": 4}
    return complete({
        "name": "tiny",
        "seed": 0,
        "stages": "tokenizer,teacher,pairs,distill,evaluate,sample",
        "data": {"name": "digits", "image_size": 8, "num_classes": 10},
        "tokenizer": {
            "kind": tokenizer,
            "model": TOKENIZERS[tokenizer],
            "perceptual_net": classifier,
            "train": train,
        },
        "teacher": {
            "kind": teacher,
            "model": {"vocab_size": 16, "code_dim": 4, "width": 16, "layers": 2, "heads": 2,
                      "num_classes": 10, **grid},
            "train": train,
        },
        "guidance": {"scale": 1.5},
        "flow": {},
        "pairs": {"count": 48, "per_shard": 20, "batch": 8},
        "student": {"kind": student, "steps": steps, "split": split},
        "distill": {"perceptual_net": classifier, "train": train},
        "evaluate": {
            "samples": 50, "batch": 25, "sets": 2, "features": classifier,
            "methods": methods,
        },
        "sample": {"count": 4},
    })
