"""The job that the fault campaign disturbs: every stage, as small as it gets."""

from ddjax.config.reading import complete
from tests import tiny


def get_config():
    tree = tiny.get_config().to_dict()
    tree["name"] = "campaign"
    for section in ("tokenizer", "teacher", "distill"):
        tree[section]["train"]["steps"] = 20  # long enough to be found between two checkpoints
    tree["evaluate"]["methods"] = "teacher_ar,student_1step,skip_4"
    tree["evaluate"]["sets"] = 1
    return complete(tree)
