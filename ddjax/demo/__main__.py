"""Demo: a page in the browser on this machine: `python -m ddjax.demo --workdir=runs/digits`.

Or of model folders: `--tokenizer=... --student=... --teacher=... --steps=0,80 --split=130`. It asks
no other host for anything, and only this machine reaches it unless --address says otherwise.
"""

import errno
import ipaddress
import socket
import sys
import time
from pathlib import Path

from absl import flags

from ddjax import cli
from ddjax.demo import requests
from ddjax.demo.requests import COUNTS
from ddjax.method.guidance import Guidance
from ddjax.pipeline import Pipeline
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
    try:
        from ddjax.demo import page
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing; pip install 'ddjax[demo]'") from None
    address, port = _ADDRESS.value, _PORT.value
    _check_port(address, port)
    pipe, parts, name = _pipeline()
    for way in requests.methods(pipe, parts):
        pipe.models(way)  # what is missing or damaged ends the command, not the first drawing
    blocks, warming = page.build(pipe, parts, name)
    warming.start()
    page.launch(blocks, address, port)
    if not ipaddress.ip_address(address).is_loopback:
        print(
            f"--address={address}: whoever reaches this machine on port {port} can draw with its "
            "models; there is no password",
            file=sys.stderr,
        )
    shown = "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address
    print(f"open http://{shown}:{port} in a browser; Ctrl-C ends it", flush=True)
    while True:
        time.sleep(3600)


def _pipeline() -> tuple[Pipeline, set[str], str]:
    """The pipeline of the flags, which models it has, and a name for it."""
    folders = {"student": _STUDENT.value, "teacher": _TEACHER.value}
    given = {part for part, folder in folders.items() if folder}
    if _WORKDIR.value and (given or _TOKENIZER.value):
        raise UserError("--workdir: got model folders too, give one or the other")
    if _WORKDIR.value:
        root = Path(_WORKDIR.value)
        pipe = Pipeline.from_workdir(root, batch=max(COUNTS))
        cli.keep_programs(root)
        return pipe, {"teacher", "student"}, root.absolute().name
    if not _TOKENIZER.value or not given:
        raise UserError(
            "give --workdir=runs/digits, of a finished run, or --tokenizer=FOLDER and "
            "--student=FOLDER, --teacher=FOLDER or both"
        )
    pipe = Pipeline.from_folders(
        _TOKENIZER.value, **folders, steps=_steps(), split=_SPLIT.value,
        guidance=Guidance(scale=_SCALE.value, top_k=_TOP_K.value), batch=max(COUNTS),
    )
    return pipe, given, " and ".join(Path(folders[part]).name for part in sorted(given))


def _steps() -> tuple[int, ...]:
    if not all(text.strip().isdigit() for text in _STEPS.value):
        raise UserError(f"--steps={','.join(_STEPS.value)}: give whole numbers, such as 0,80")
    return tuple(map(int, _STEPS.value))


def _check_port(address: str, port: int) -> None:
    """Refuse what cannot be bound, before models are loaded."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except ValueError:
        raise UserError(f"--address={address} is no IP address, such as 127.0.0.1") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port={port} is in use; give another, or end what uses it") from None
        raise UserError(f"--address={address} --port={port}: {error.strerror}") from None


if __name__ == "__main__":
    cli.run(main)
