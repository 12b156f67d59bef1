"""Demo: a page in the browser on this machine: `python -m ddjax.demo --workdir=runs/digits`.

Or of model folders: `--tokenizer=... --student=... --teacher=... --steps=0,80 --split=130`. It asks
no other host for anything, and only this machine reaches it unless --address says otherwise.
"""

import importlib.util
import sys
import time

from absl import flags

from ddjax import cli
from ddjax.demo import address, models, warming
from ddjax.demo.drawing import Studio
from ddjax.method.guidance import Guidance
from ddjax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Of a finished run")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Model folder, in place of a workdir")
_STUDENT = flags.DEFINE_string("student", None, "Likewise")
_TEACHER = flags.DEFINE_string("teacher", None, "Likewise")
_STEPS = flags.DEFINE_list("steps", ["0"], "Values of k of the student in --student")
_SPLIT = flags.DEFINE_integer("split", None, "Its groups that are read from its logits; all")
_SCALE = flags.DEFINE_float("guidance", 1.0, "Scale of the guidance of the teacher in --teacher")
_TOP_K = flags.DEFINE_integer("top_k", 0, "Likewise; 0 keeps all", lower_bound=0)
_ADDRESS = flags.DEFINE_string("address", "127.0.0.1", "Who reaches the page: this machine alone")
_PORT = flags.DEFINE_integer("port", 7860, "Of the page", lower_bound=1, upper_bound=65535)


def main() -> None:
    """Load the models, open the page, and compile what it draws first."""
    if not importlib.util.find_spec("gradio"):
        raise UserError("gradio is missing, which draws the page; pip install -e '.[demo]'")
    at = _ADDRESS.value, _PORT.value
    address.check(*at)
    found = _models()
    from ddjax.demo import page  # takes seconds, which what is wrong need not wait for

    studio = Studio(found.pipe)
    blocks, first = page.build(studio, found.parts, found.name)
    warming.start(studio, first)
    page.launch(blocks, *at)
    if warning := address.warning(*at):
        print(warning, file=sys.stderr)
    print(f"open {address.url(*at)} in a browser; Ctrl-C ends it", flush=True)
    while True:
        time.sleep(3600)


def _models() -> models.Models:
    folders = _TOKENIZER.value, _STUDENT.value, _TEACHER.value
    if _WORKDIR.value and any(folders):
        raise UserError("--workdir: got model folders too, give one or the other")
    if _WORKDIR.value:
        return models.of_workdir(_WORKDIR.value)
    if not folders[0] or not any(folders[1:]):
        raise UserError(
            "give --workdir=runs/digits, of a finished run, or --tokenizer=FOLDER and "
            "--student=FOLDER, --teacher=FOLDER or both"
        )
    return models.of_folders(
        *folders, steps=_STEPS.value, split=_SPLIT.value,
        guidance=Guidance(scale=_SCALE.value, top_k=_TOP_K.value),
    )


if __name__ == "__main__":
    cli.run(main)
