"""Ablations: what --over means, what is shared, a whole study in small."""

import dataclasses
import functools
import importlib
import json
import re

import jax
import pytest

from ddjax.ablate import plan, results, study, variants
from ddjax.config.reading import from_dict, plain
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import pairs, running
from ddjax.stages.registry import STAGES
from ddjax.storage.pair_store import Store
from tests import tiny
from tests.commands import run

METHODS = ("student_1step", "student_2step")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs of eight take longer to compile, and say nothing else here; all of them stay."""
    mesh = sharding.one_device()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda *_: mesh)
        patch.setattr(jax, "clear_caches", lambda: None)
        yield


@functools.cache
def base(**random):
    """The tiny config; `random=True` needs no training but a feature net's and students'."""
    tree = tiny.get_config().to_dict()
    if random:
        for section in ("tokenizer", "teacher"):
            tree[section]["weights"] = "random"
        tree["student"]["split"] = 16
        tree["distill"].update(perceptual=0.0, validate_samples=16)
        tree["distill"]["train"]["steps"] = 4
        tree["pairs"]["per_shard"] = 10
        tree["evaluate"].update(samples=16, batch=16, sets=1)
    return from_dict(tree)


def of_over(over, methods=METHODS):
    return variants.of_over(base(), over, methods)


@pytest.mark.parametrize(("over", "key", "values"), [
    ("student.steps=0,5;0,3; 0, 8", ("student", "steps"), [(0, 5), (0, 3), (0, 8)]),
    ("pairs.count=16,48", ("pairs", "count"), [16, 48]),
    ("pairs.count = 16;48", ("pairs", "count"), [16, 48]),
    ("distill.perceptual=0.5,1e-1,2", ("distill", "perceptual"), [0.5, 0.1, 2.0]),
    ("guidance.schedule=constant,linear", ("guidance", "schedule"), ["constant", "linear"]),
    ("data.captions_distinct=true,false", ("data", "captions_distinct"), [True, False]),
])
def test_values_of_over(over, key, values):
    """And nothing else changes but what makes it an ablation."""
    found = of_over(over)
    section, name = key
    assert [getattr(getattr(v.config, section), name) for v in found] == values
    assert [v.key for v in found] == [".".join(key)] * len(values)
    for variant in found:
        there, here = plain(variant.config), plain(base())
        there[section][name] = here[section][name]
        assert there["distill"].pop("validate_every") == 1  # a tenth of 12 steps
        assert there["evaluate"].pop("methods") == "student_1step,student_2step"
        for ignored in (here["distill"].pop("validate_every"), here["evaluate"].pop("methods")):
            del ignored
        for tree in (there, here):
            del tree["stages"], tree["sample"]["method"]
        assert there == here


def test_methods_that_a_variant_does_not_have_are_left_out():
    one, two = of_over("student.steps=0;0,3")
    assert one.config.evaluate.methods == ("student_1step",)
    assert two.config.evaluate.methods == METHODS
    assert (one.name, two.name) == ("student.steps=0", "student.steps=0,3")


@pytest.mark.parametrize(("over", "message"), [
    ("pairs.count", "expected KEY=VALUE,VALUE, such as --over=pairs.count=5000,10000"),
    ("pairs.count=", "expected KEY=VALUE,VALUE"),
    ("=3,4", "expected KEY=VALUE,VALUE"),
    ("pairs.cout=16,20", "the config has no key pairs.cout; did you mean count?"),
    ("paris.count=16,20", "the config has no key paris.count; did you mean pairs?"),
    ("pairs.count.x=16,20", "the config has no key pairs.count.x"),
    ("pairs=16,20", "pairs is not a single value; name a key of it"),
    ("text=a,b", "text is not a single value"),
    ("pairs.count=16", "there is one value, 16, and nothing to compare"),
    ("student.steps=0,5,8", "there is one value, 0,5,8, and nothing to compare; student.steps is "
                            "a list, so separate values by semicolons"),
    ("pairs.count=16,,20", "a value is empty"),
    ("pairs.count=16,20,16", "16 is there twice"),
    ("pairs.count=16,5k", "expected a whole number, got '5k'"),
    ("distill.perceptual=0.1,much", "expected a number, got 'much'"),
    ("data.captions_distinct=yes,no", "expected true or false, got 'yes'"),
    ("student.steps=0,5;0,99", "config.student.steps: got (0, 99), must be rising"),
    ("student.steps=0,5;0,x", "config.student.steps: expected whole numbers, got 'x'"),
    ("seed=1,2", "seed cannot be varied; say --seeds=3"),
    ("stages=pairs;distill", "stages cannot be varied"),
])
def test_a_wrong_over_is_named(over, message):
    with pytest.raises(UserError, match=re.escape(f"--over={over}: ") + ".*" + re.escape(message)):
        of_over(over)


def test_wrong_flags_are_named():
    for overs, methods, message in (
        ([], METHODS, "--over is missing; give one such as"),
        (["pairs.count=16,20", "pairs.count=30,40"], METHODS,
         r"--over=pairs\.count is there twice; give all"),
        (["pairs.count=16,20"], ["student_3stepz"], "'student_3stepz' is unknown"),
    ):
        with pytest.raises(UserError, match=message):
            variants.of_overs(base(), overs, methods)
    given = dataclasses.replace(
        base(), student=dataclasses.replace(base().student, weights="random")
    )
    with pytest.raises(UserError, match=r"config\.student\.weights: got random, must be none"):
        study.Study(given, of_over("pairs.count=16,20"), 1)


@pytest.mark.slow
def test_the_command_takes_its_flags(tmp_path):
    """Several keys, semicolons, other keys of the config; a plan alone leaves nothing behind."""
    code, output = run(
        tmp_path / "new", "--over=student.steps=0,5;0,3", "--over=pairs.count=16,20", "--seeds=2",
        "--config.distill.train.steps=7", "--plan", "--device=H100", module="ablate",
    )
    assert code == 0, output
    assert "| student.steps=0,3 |  |  | 2 | 7 | 0 of 2 | 0.0 |" in output
    assert "| pairs.count=20 |" in output and not (tmp_path / "new").exists()
    code, output = run(tmp_path / "new", "--over=pairs.count=16", module="ablate")
    assert code == 1
    assert output.splitlines()[-1].startswith("error: --over=pairs.count=16: there is one value")


def names(stages):
    return [stage.name for stage in stages]


@pytest.mark.parametrize(("over", "own"), [
    ("student.steps=0,5;0,3", []),
    ("distill.train.learning_rate=1e-3,1e-4", []),
    ("guidance.scale=1.5,2", ["pairs"]),
    ("teacher.train.steps=12,13", ["teacher", "pairs"]),
    ("tokenizer.train.steps=12,13", ["tokenizer", "teacher", "pairs"]),
])
def test_only_what_a_value_changes_is_made_again(over, own):
    """The first value is the config's, the second another."""
    first, second = of_over(over)
    whole = study.Study(base(), [first, second], 2)
    assert names(whole.own_stages(first.config)) == []
    assert names(whole.own_stages(second.config)) == own
    assert not whole.takes_pairs(second.config)
    assert names(whole.shared_stages()) == ["tokenizer", "teacher", "pairs"]
    others = study.Study(base(), [second], 2)
    assert names(others.shared_stages()) == [
        name for name in ("tokenizer", "teacher", "pairs") if name not in own
    ]


def test_what_two_ablations_have_in_common_is_made_once(tmp_path):
    """Each has the config's own value; a table has a row for each, of the same students."""
    count = base().pairs.count
    overs = ["student.steps=0,5;0,3", f"pairs.count=16,{count}"]
    found = variants.of_overs(base(), overs, METHODS)
    whole = study.Study(base(), found, 2)
    assert [v.name for v in whole.distinct] == [
        "student.steps=0,5", "student.steps=0,3", "pairs.count=16"
    ]
    assert [v.value for v in whole.variants] == ["0,5", "0,3", "16", str(count)]
    own, same = (list(whole.runs(tmp_path, found[i])) for i in (0, 3))
    assert own == same


def test_pairs_are_the_first_of_the_most():
    """Of the base's kind; the base's own count is made only if it is needed."""
    found = of_over("pairs.count=16,100,20") + of_over("student.steps=0,5;0,3")
    whole = study.Study(base(), found, 1)
    assert whole.shared.pairs.count == 100
    assert [whole.takes_pairs(v.config) for v in found] == [True, False, True, True, True]
    few = study.Study(base(), of_over("pairs.count=16,20"), 1)
    assert few.shared.pairs.count == 20
    shapes = of_over("pairs.per_shard=20,30")
    assert not study.Study(base(), shapes, 1).takes_pairs(shapes[1].config)


def test_a_feature_net_is_shared_where_it_is_the_same():
    first, second = of_over("evaluate.features.train.steps=8,9")
    whole = study.Study(base(), [first, second], 1)
    assert whole.shares_features(first.config) and not whole.shares_features(second.config)


def test_seeds_change_students_alone(tmp_path):
    (variant, _) = of_over("student.steps=0,5;0,3")
    found = list(study.Study(base(), [variant], 2).runs(tmp_path, variant))
    assert [config.seed for config, _ in found] == [0, 1]
    folder = tmp_path / "student.steps=0,5"
    assert [path for _, path in found] == [folder / "seed0", folder / "seed1"]
    for config, _ in found:
        assert config.evaluate.features.weights == str(folder / "feature_net")


def test_the_plan_says_what_is_made_and_the_hours():
    found = of_over("pairs.count=16,48") + of_over("guidance.scale=1.5,2")
    text = plan.text(study.Study(base(), found, 3), study.Path("runs/x"), None)
    assert text.startswith("tiny: 4 variants with 3 seeds each, in runs/x\n")
    for line in (
        "| shared | tokenizer 12 steps, teacher 12 steps | 48 |  |  |  |",
        "| pairs.count=16 |  |  | 3 | 12 | 0 of 3 |",
        "| guidance.scale=2 |  | 48 | 3 | 12 | 0 of 3 |",
    ):
        assert line in text.splitlines()
    tree = plain(base()) | {"student": {**plain(base())["student"], "split": 16}}
    train = {"steps": 7, "batch": 8, "learning_rate": 1e-3, "warmup": 2}
    tree["distill"] |= {"score": {"train": train, "fake": train}}
    methods = variants.of_over(from_dict(tree), "distill.method=map;map,score;score", METHODS)
    rows = plan.text(study.Study(from_dict(tree), methods, 1), study.Path("x"), None).splitlines()
    assert [row.split("|")[5].strip() for row in rows[-5:-2]] == ["12", "19", "7"]
    with pytest.raises(UserError, match="--utilisation: got 0, must be above 0"):
        plan.text(study.Study(base(), found, 3), study.Path("runs/x"), plan.Hardware("H100", 1, 0))


@pytest.mark.slow
def test_the_plan_of_a_published_size_needs_no_weights():
    """Hours are those of `ddjax.plan`, once for the pairs and for each student."""
    tree = importlib.import_module("configs.llamagen").get_config("B").to_dict()
    config = from_dict(tree)
    found = variants.of_over(config, "student.steps=0,80;0,40", METHODS)
    hardware = plan.Hardware("H100", 8, 0.3)
    text = plan.text(study.Study(config, found, 2), study.Path("runs/x"), hardware)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
            if line.startswith("| ")]
    assert rows[0][-1] == "hours"
    shared, first, second, together = (float(row[-1]) for row in rows[2:])
    nets, device = plan.costs.models(config), plan.DEVICES["H100"]
    pairs_hours = plan.costs.pairs_stage(config, nets, 8).hours(device, 0.3)
    student = plan.costs.distill_stage(config, nets, 8).hours(device, 0.3)
    assert shared == pytest.approx(pairs_hours, abs=0.05) and pairs_hours > 0.1
    assert first == second == pytest.approx(2 * student, abs=0.05)
    assert together == pytest.approx(pairs_hours + 4 * student, abs=0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two values and two seeds, with a list that no value changes beside them."""
    root = tmp_path_factory.mktemp("study")
    config = base(random=True)
    todo = study.Study(config, variants.of_over(config, "pairs.count=16,24", METHODS), 2)
    study.run(todo, root)
    return todo, root, results.collect(todo, root)


@pytest.mark.slow
def test_shared_folders_are_links(whole):
    _, root, _ = whole
    largest, fewer = root / "pairs.count=24", root / "pairs.count=16"
    assert (largest / "pairs").resolve() == root / "shared" / "pairs"
    assert not (fewer / "pairs").is_symlink()
    for value in (largest, fewer):
        assert (value / "feature_net").resolve() == root / "shared" / "feature_net"
        for seed in ("seed0", "seed1"):
            assert (value / seed / "pairs").resolve() == (value / "pairs").resolve()
            assert not (value / seed / "distill").is_symlink()
    links = [path for path in root.rglob("*") if path.is_symlink()]
    assert links and all(not path.readlink().is_absolute() for path in links)


@pytest.mark.slow
def test_fewer_pairs_are_those_that_the_stage_would_make(whole, tmp_path):
    todo, root, _ = whole
    (variant, _) = todo.variants
    running.run_all(variant.config, tmp_path, [STAGES["pairs"]])
    made, copied = tmp_path / "pairs", root / variant.name / "pairs"
    assert Store(made).manifest() == Store(copied).manifest()
    shards = sorted(path.name for path in made.glob("*.array_record"))
    assert shards == ["pairs-00000.array_record", "pairs-00001.array_record"]
    for name in shards:
        assert (made / name).read_bytes() == (copied / name).read_bytes()
    summary = json.loads((copied / "finished.json").read_text())["summary"]
    assert summary.startswith("16 pairs in 2 shards, 0 of them made now")


@pytest.mark.slow
def test_pairs_of_another_kind_are_not_copied(whole, tmp_path):
    todo, root, _ = whole
    config = todo.variants[0].config
    other = dataclasses.replace(
        config, guidance=dataclasses.replace(config.guidance, scale=3.0)
    )
    with pytest.raises(UserError, match="shared/pairs has pairs of another settings: none can"):
        pairs.take_from(other, tmp_path / "a", root / "shared")
    more = dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, count=25))
    with pytest.raises(UserError, match="shared/pairs has 24 pairs: none can be copied"):
        pairs.take_from(more, tmp_path / "b", root / "shared")


@pytest.mark.slow
def test_seeds_and_values_make_different_students(whole):
    """Numbers are those of the workdirs, in their order."""
    _, root, found = whole
    assert (found["name"], found["seeds"], found["samples"]) == ("tiny", 2, 16)
    (ablation,) = found["ablations"]
    assert ablation["key"] == "pairs.count"
    assert [one["value"] for one in ablation["values"]] == ["16", "24"]
    seen = set()
    for one in ablation["values"]:
        assert one["curve"]["step"] == [1, 2, 3, 4]
        assert [row["method"] for row in one["rows"]] == list(METHODS)
        for i in range(2):
            workdir = root / f"pairs.count={one['value']}" / f"seed{i}"
            rows = json.loads((workdir / "distill" / "validation.json").read_text())["rows"]
            assert [row["fd"] for row in rows] == [of[i] for of in one["curve"]["fd"]]
            metrics = json.loads((workdir / "metrics.json").read_text())["rows"]
            (row,) = [row for row in metrics if row["method"] == "student_2step"]
            assert one["rows"][1]["fd_teacher"][i] == row["fd_teacher"]
            seen.add(rows[-1]["fd"])
    assert len(seen) == 4


@pytest.mark.slow
def test_a_second_run_makes_nothing_again_and_goes_on_where_one_was_stopped(whole):
    """As after a kill: a student without its end is made again, from its last checkpoint."""
    todo, root, found = whole
    stopped = root / "pairs.count=24" / "seed1"
    for name in ("distill/finished.json", "evaluate/finished.json"):
        (stopped / name).unlink()
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    study.run(todo, root)
    changed = {p for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed and all(stopped in path.parents for path in changed)
    again = results.collect(todo, root)
    assert again["ablations"][0]["values"] == found["ablations"][0]["values"]


def test_without_methods_that_read_a_student_none_is_made():
    """Nor pairs; the plan says so."""
    found = of_over("guidance.scale=1,1.5,3", ["teacher_ar"])
    whole = study.Study(base(), found, 2)
    assert not whole.has_students
    assert names(whole.shared_stages()) == ["tokenizer", "teacher"]
    assert all(whole.own_stages(variant.config) == [] for variant in found)
    lines = plan.text(whole, study.Path("runs/x"), None).splitlines()
    assert "| shared | tokenizer 12 steps, teacher 12 steps |  |  |  |  |" in lines
    assert "| guidance.scale=3 |  |  |  |  | 0 of 2 |" in lines
    marginals = study.Study(base(), of_over("pairs.count=16,20", ["onestep_class"]), 1)
    assert not marginals.has_students
    assert names(marginals.shared_stages()) == ["tokenizer", "teacher", "pairs"]


def test_a_missing_net_is_told_before_anything_is_made(tmp_path):
    tree = plain(base(random=True))
    tree["evaluate"]["features"]["weights"] = "nowhere/net"
    config = from_dict(tree)
    todo = study.Study(config, variants.of_over(config, "pairs.count=16,24", METHODS), 1)
    with pytest.raises(UserError, match=r"config\.evaluate\.features\.weights: nowhere/net is"):
        study.run(todo, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_of_the_teacher(tmp_path):
    """Figures of each value and seed; no student's."""
    config = base(random=True)
    todo = study.Study(config, variants.of_over(config, "guidance.scale=1,3", ["teacher_ar"]), 2)
    study.run(todo, tmp_path)
    found = results.collect(todo, tmp_path)
    (ablation,) = found["ablations"]
    figures = [fd for one in ablation["values"] for fd in one["rows"][0]["fd_data"]]
    assert len(set(figures)) == 4
    assert not list(tmp_path.rglob("distill")) and not list(tmp_path.rglob("pairs"))
    results.write(tmp_path, found, "command")
    text = (tmp_path / "ablation.md").read_text()
    assert "](values.png)" in text and "none was trained" in text and "curves.png" not in text
