"""The product as a user has it: commands on the tiny job, repeated, and given nonsense."""

import dataclasses
import json

import numpy as np
import pytest

import ddjax
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests.commands import run
from tests.test_train import losses

pytestmark = pytest.mark.slow
MODELS = ("tokenizer", "teacher", "distill")


def test_every_stage_says_what_it_did(finished):
    _, output = finished
    lines = output.replace("\r", "\n").split("\n")
    for stage in ("tokenizer", "teacher", "pairs", "distill", "evaluate", "sample"):
        assert any(line.startswith(f"{stage} ") and line.endswith(" s)") for line in lines), stage


def test_the_report_has_a_row_for_each_method(finished):
    root, output = finished
    metrics = json.loads((root / "metrics.json").read_text())
    assert set(metrics) >= {"features", "samples", "sets", "seconds_total", "rows"}
    assert "not FID" in metrics["features"]
    rows = {row["method"]: row for row in metrics["rows"]}
    assert list(rows) == [
        "data_floor", "reconstruction", "teacher_ar", "teacher_flow", "student_1step",
        "student_2step", "teacher_involved_2_6", "refine_1", "refine_2", "skip_4",
        "onestep_class", "onestep_all",
    ]
    assert all(set(row) == {
        "method", "fd_data", "fd_teacher", "class_accuracy", "precision", "recall",
        "tokens_equal", "passes", "seconds_per_image", "speedup", "deviation", "colour_right",
        "shape_right", "size_right", "place_right", "all_right", "all_right_held_out", "fid",
        "sfid", "inception_score", "clip_score",
    } for row in rows.values())
    assert rows["teacher_flow"]["tokens_equal"] == 1
    assert rows["teacher_ar"]["speedup"] == 1
    assert rows["data_floor"]["passes"] is None and rows["skip_4"]["passes"] == 12
    assert 0 < rows["student_1step"]["tokens_equal"] < 1
    assert rows["refine_2"]["tokens_equal"] >= rows["student_1step"]["tokens_equal"]
    assert metrics["sets"] == 2 and rows["refine_1"]["deviation"]["fd_teacher"] > 0
    assert rows["data_floor"]["deviation"]["fd_data"] is None
    assert "| student_1step |" in output and "| student_1step |" in (root / "report.md").read_text()


def test_the_pictures_are_there(finished):
    import matplotlib.image

    root, _ = finished
    for name in ("samples.png", "tradeoff.png"):
        picture = matplotlib.image.imread(root / name)
        assert picture.shape[0] > 200 and picture.shape[1] > 400
        assert picture.std() > 0.05


def test_events_are_written(finished):
    root, _ = finished
    for stage in MODELS:
        assert sorted(losses(root / stage)) == list(range(1, 13))


def test_a_second_run_does_nothing_again(finished):
    root, _ = finished
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    code, output = run(root)
    assert code == 0
    assert output.count("finished before:") == 6
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p in before} == before


def test_sampling_from_a_finished_run(finished):
    root, _ = finished
    overrides = ("--config.stages=sample", "--config.sample.method=refine_1",
                 "--config.sample.labels=3,3,7")
    for seed in (5, 6):
        code, output = run(root, *overrides, f"--config.seed={seed}")
        assert code == 0, output
        assert f"3 images by refine_1: {root}/sample/refine_1-seed{seed}-labels3-3-7" in output
    drawn = [np.load(next(root.glob(f"sample/refine_1-seed{s}-labels3-3-7-*/images.npz")))
             for s in (5, 6)]
    assert drawn[0]["images"].shape == (3, 8, 8, 1) and list(drawn[0]["labels"]) == [3, 3, 7]
    assert (drawn[0]["ids"] != drawn[1]["ids"]).any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--config.teacher.model.width=24",), "was made by other settings: teacher.model.width"),
        (("--config.stages=sample", "--config.sample.method=magic"), "'magic' is unknown; known"),
        (("--config.stages=sample", "--config.sample.labels=3,10"), "labels: got 10, must be in 0"),
        (("--config.student.split=99",), "config.student.split: got 99"),
        (("--config.teacher.modle.width=24",), "--config.teacher.modle.width=24"),
        (("--confgi=x",), "Unknown command line flag 'confgi'"),
        (("--config.distil.train.steps=3",), "no key 'distil' there; did you mean distill?"),
        (("--config=configs/nope.py",), "--config=configs/nope.py cannot be read; give"),
        (("--config=configs/digits.py:x",), "digits.py:x: this config takes nothing"),
        (("--config.data.name=cats", "--config.stages=tokenizer"), "data.name"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(finished, overrides, message):
    root, _ = finished
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    code, output = run(root, *overrides)
    assert code == 1
    errors = [line for line in output.split("\n") if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], output
    assert "Traceback" not in output
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def test_a_config_or_workdir_of_something_else_is_one_line(folder, tmp_path):
    file = tmp_path / "three.py"
    file.write_text("def get_config():\n    return 3\n")
    for options, wanted in (
        ({"config": file}, f"error: --config={file}: get_config gave 3, must be"),
        ({}, f"error: {file}/run/distill/finished.json: Not a directory"),
    ):
        code, output = run(file / "run", **options)
        assert code == 1 and wanted in output and "Traceback" not in output


def test_model_folders_take_the_place_of_stages(finished, folder):
    """A student, its tokenizer, and no teacher at all draw the very images of the whole run."""
    whole, _ = finished
    flags = [f"--config.{section}.weights={whole / stage}" for section, stage in
             (("tokenizer", "tokenizer"), ("student", "distill"))]
    root = folder / "from_folders"
    code, output = run(root, "--config.stages=sample", *flags)
    assert code == 0, output
    images = [
        np.load(next(path.glob("sample/student_1step*/images.npz")))["images"]
        for path in (root, whole)
    ]
    np.testing.assert_array_equal(*images)
    code, output = run(root, "--config.stages=teacher,pairs", *flags,
                       "--config.teacher.weights=nowhere/c2i_B_256")
    assert code == 1
    assert ("config.teacher.weights: nowhere/c2i_B_256 is missing; give the folder of a model, or "
            "make it with: python conversion/torch_to_flax.py --model=llamagen "
            "--checkpoint=c2i_B_256.pt --grid=4") in output


def test_load_takes_a_stage_or_a_model_folder(finished):
    whole, _ = finished
    for path in (whole / "teacher", whole / "teacher" / "model"):
        assert ddjax.load(path).groups.count == 16
    for dtype in ("float32", "bfloat16"):
        teacher = ddjax.load(whole / "teacher", dtype=dtype)
        assert teacher.config.dtype == dtype and teacher.trunk.head.kernel.dtype == "float32"
    with pytest.raises(UserError, match=r"teacher/model: dtype 'int8'; it computes in float32 or"):
        ddjax.load(whole / "teacher", dtype="int8")
    with pytest.raises(UserError, match=r"dtype 'bfloat16'; it computes in float32$"):
        ddjax.load(whole / "tokenizer", dtype="bfloat16")
    sizes = dataclasses.replace(ddjax.load(whole / "teacher").config, width=32)
    with pytest.raises(UserError, match="of other sizes than the config: width 16, not 32"):
        model_folder.load(whole / "teacher", "llamagen", sizes)
    with pytest.raises(UserError, match=r"pairs is not a model folder: .*no key kind; give"):
        ddjax.load(whole / "pairs")
    with pytest.raises(UserError, match="holds a llamagen, where a llamagen_student is wanted"):
        model_folder.load(whole / "teacher", "llamagen_student")


def test_an_unfinished_stage_is_named(folder):
    code, output = run(folder / "empty", "--config.stages=sample")
    assert code == 1
    assert "stage tokenizer has not finished; run it first" in output


def test_the_benchmark_prints_a_table_and_json_and_overwrites_nothing(folder):
    output = folder / "benchmark.json"
    flags = ("--batch=2", "--repeats=1", f"--output={output}")
    code, printed = run(folder / "none", *flags, module="benchmark")
    assert code == 0, printed
    result = json.loads(output.read_text())
    assert {row["name"] for row in result["rows"]} == {
        "teacher_ar", "student_1step", "student_2step", "refine_1", "decode", "pairs",
        "flow map of the pairs", "training step", "reading a batch of pairs",
        "features of evaluate.features"}
    assert all(row["seconds"] > 0 for row in result["rows"])
    rows = {(row["name"], row["batch"]): row for row in result["rows"]}
    assert len(rows) == 8 + 2 and rows["training step", 8]["model_flop_utilisation"] > 0
    assert rows["reading a batch of pairs", 8]["share_of_a_training_step"] > 0
    assert rows["pairs", 2]["pairs_per_second"] > 0 and rows["pairs", 2]["flow_map_share"] > 0
    assert rows["features of evaluate.features", 2]["images_per_second"] > 0
    assert rows["student_1step", 2]["speedup_over_teacher"] > 0
    assert "| student_1step | 2 |" in printed and "peak memory" in printed
    code, printed = run(folder / "none", *flags, module="benchmark")
    assert code == 1 and "exists already; name another file" in printed


def test_the_benchmark_measures_a_text_encoder():
    code, printed = run(
        "none", "--batch=2", "--repeats=1", "--only=encoder,training step,encoding the captions of "
        "a step", module="benchmark", config="configs/llamagen_t2i.py:tiny",
    )
    assert code == 0, printed
    rows = {row["name"]: row for row in json.loads(printed.splitlines()[-1])["rows"]}
    assert rows["encoder"]["seconds"] > 0
    assert rows["encoding the captions of a step"]["share_of_a_training_step"] > 0


def test_solvers_prints_agreement(finished):
    code, printed = run(finished[0], "--tokens=64", module="compare_solvers")
    assert code == 0, printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| 5 | 60 |")]
    assert [int(row[2]) for row in rows] == [16, 24, 32, 48, 64]
    assert float(rows[-1][3].strip(" %")) >= 98  # of 64 tokens
