"""Imports run one way: main, stages, method, models, layers."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "ddjax"

# Lower may not import higher.
RANKS = [
    ["errors", "groups", "devices", "preemption", "profiling", "throughput", "trees",
     "fingerprint", "truncation"],
    ["sharding"],
    ["flops", "flow", "models.condition", "models.layers", "files"],
    ["guidance", "models.llamagen", "models.vq", "models.multiscale"],
    ["models.classifier", "models.lpips", "models.patch_vq", "models.multiscale_vq",
     "models.var_blocks", "trajectory", "keys", "methods", "memory"],
    ["models.var_trunk"],
    ["models.var"],
    ["models"],
    ["config", "baselines", "progress"],
    ["config_checks", "data", "hosts"],
    ["pair_store", "weights"],
    ["config_file", "parts"],
    ["workdir"],
    ["cli", "monitor", "pictures"],
    ["checkpoint", "health", "pair_generation"],
    ["train"],
    ["classify", "pairs", "tokenizer"],
    ["sample", "teacher"],
    ["distill", "report"],
    ["evaluate"],
    ["plan_compiled"],
    ["main", "benchmark", "solvers", "plan"],
]


def rank(name):
    name = name.removesuffix(".__init__")
    ranks = [i for i, names in enumerate(RANKS) if name in names or name.split(".")[0] == "metrics"]
    assert ranks, f"{name} has no rank: add it to RANKS"
    return ranks[0]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "__init__":
            yield name, path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ddjax"):
            inside = node.module.removeprefix("ddjax").lstrip(".")
            for alias in node.names:
                whole = f"{inside}.{alias.name}".lstrip(".")
                exists = (ROOT / (whole.replace(".", "/") + ".py")).exists() or (
                    ROOT / whole.replace(".", "/")
                ).is_dir()
                yield whole if exists else inside


def test_imports_run_one_way():
    for name, path in modules():
        for other in imported(path):
            assert rank(other) < rank(name) or other.startswith("metrics"), (
                f"{name} imports {other}"
            )


def test_the_method_knows_no_model_family():
    method = {"flow", "guidance", "trajectory", "baselines", "sample", "distill", "pairs",
              "pair_generation", "pair_store"}
    for name, path in modules():
        if name in method:
            families = [o for o in imported(path) if o.startswith("models.")]
            assert not families, f"{name} imports {families}"
