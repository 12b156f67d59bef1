"""Imports run one way: a package imports from those below it, and from itself."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "ddjax"

# From the top down; a row is a package, or the modules that stand beside the packages.
LAYERS = [
    ["ablate"],  # a command that asks the plan
    ["main", "benchmark", "compare_solvers", "demo", "metrics", "pairs", "paper", "plan"],
    ["cli"],
    ["stages"],
    ["pipeline"],
    ["evaluation", "training"],
    ["storage"],
    ["data"],
    ["config"],
    ["models"],
    ["method"],
    ["runtime"],
]


def layer(name):
    found = [i for i, row in enumerate(LAYERS) if name.split(".")[0] in row]
    assert found, f"{name} stands in no layer: add its package to LAYERS"
    return found[0]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "__init__":
            yield name.removesuffix(".__init__"), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ddjax"):
            inside = node.module.removeprefix("ddjax").lstrip(".")
            for alias in node.names:
                whole = f"{inside}.{alias.name}".lstrip(".")
                module = ROOT / (whole.replace(".", "/") + ".py")
                yield whole if module.exists() or module.with_suffix("").is_dir() else inside
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("ddjax.") for a in node.names
                        if a.name.startswith("ddjax."))


def test_imports_run_one_way():
    for name, path in modules():
        for other in imported(path):
            same = other.split(".")[0] == name.split(".")[0]
            assert same or layer(other) > layer(name), f"{name} imports {other}"


def test_no_two_modules_import_each_other():
    graph = {name: set(imported(path)) for name, path in modules()}

    def reaches(start, goal, seen):
        if start in seen:
            return False
        seen.add(start)
        return goal in graph.get(start, ()) or any(
            reaches(other, goal, seen) for other in graph.get(start, ())
        )

    circles = [name for name in graph if reaches(name, name, set())]
    assert not circles, circles
