"""The docs: what they name is there: commands and flags, keys of configs, files, modules, links."""

import dataclasses
import re
import subprocess
import types
import typing

import pytest

from ddjax.config.schema import Config
from ddjax.models import MODELS
from tests.commands import ROOT

# The changelog also names what is gone.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]
# Made by the site or by the reader.
MADE = ("pictures.md", "conversion/weights", "ddjax/images", "ddjax/stages/NAME.py")


def source_of(command):
    """The file in which a command's flags are defined; None of commands that are not ours."""
    if not command.startswith("-m "):
        return ROOT / command
    path = ROOT / command.removeprefix("-m ").replace(".", "/")
    module = path.with_suffix(".py")
    ours = command.startswith(("-m ddjax", "-m tests"))
    return (module if module.exists() else path / "__main__.py") if ours else None


def has_key(cls, names):
    """Whether a section of the config has a key, "distill.train.steps" in parts."""
    if not names:
        return True
    if cls is typing.Any:  # of a model, whichever its kind is
        configs = [model.Config for model in MODELS.values()]
        return any(has_key(config, names) for config in configs)
    if isinstance(cls, types.UnionType):
        cls = typing.get_args(cls)[0]
    if not dataclasses.is_dataclass(cls):
        return False
    hints = typing.get_type_hints(cls)
    return names[0] in hints and has_key(hints[names[0]], names[1:])


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_commands_and_their_flags_exist(page):
    text = page.read_text().replace("\\\n", " ")
    for command, rest in re.findall(r"python (-m [\w.]*\w|[\w/]+\.py)([^\n`]*)", text):
        source = source_of(command)
        if source is None:
            continue
        assert source.exists(), command
        defined = re.findall(r'(?:DEFINE\w*|add_argument)\([^"]*?"-*(\w+)"', source.read_text())
        for flag in re.findall(r"--(\w[\w.]*)", rest):
            known = flag.startswith("config") or flag.removeprefix("no") in defined
            assert known or flag in defined, f"{command} has no flag --{flag}"


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_keys_of_configs_exist(page):
    for name in re.findall(r"\bconfig\.([a-z_]\w*(?:\.[a-z_]\w*)*)", page.read_text()):
        if name not in ("json", "to_dict", "complete") and not name.startswith("py"):
            assert has_key(Config, name.split(".")), f"config.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_links_and_headings_exist(page):
    text = page.read_text()
    folders = "ddjax|conversion|configs|launch|notebooks|tests|docs"
    for path in re.findall(rf"(?<![\w/.~])((?:{folders})/[\w/.]*\w)", text):
        assert path.startswith(MADE) or (ROOT / path).exists(), path
    for file, heading in re.findall(r"\]\(([^)#\s:]*)(?:#([\w-]+))?\)", text):
        target = page.parent / file if file else page
        if file in MADE:
            continue
        assert target.exists(), file
        if heading:
            titles = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert heading in anchors, f"{file}#{heading}"


def test_the_list_of_modules_is_whole():
    block = (ROOT / "docs/architecture.md").read_text().split("## Modules")[1].split("```")[1]
    named, above = set(), []
    for spaces, name in re.findall(r"^( *)(\S+)", block, re.MULTILINE):
        parents = above[: len(spaces) // 2]
        if len(parents) == len(spaces) // 2 and "".join(parents)[-1:] in ("", "/"):
            above = [*parents, name]  # else a description goes on
            named.add("".join(above))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "ddjax"],
        cwd=ROOT, text=True, capture_output=True,
    ).stdout.split()
    there = {path for path in listed if (ROOT / path).exists()}
    if not there:
        pytest.skip("not a checkout of git")
    wanted = {path for path in there if not path.endswith("/__init__.py")}
    # A folder may stand for what it holds, such as the columns of the report.
    alone = {path for path in named if path.endswith("/")
             and not any(other.startswith(path) and other != path for other in named)}
    whole = ("ddjax/evaluation/metrics/", *alone)
    assert not {path for path in wanted - named if not path.startswith(whole)}
    gone = {path for path in named if path.startswith("ddjax/") and not (ROOT / path).exists()}
    assert not gone
