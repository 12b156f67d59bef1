"""The paper's tables: the transcription is whole, and one's own rows stand in the right cells."""

import dataclasses
import importlib

import pytest

from ddjax.config.reading import from_dict
from ddjax.method import ways
from ddjax.paper import figures, making, table
from ddjax.runtime.errors import UserError
from ddjax.stages import registry
from ddjax.storage import files
from tests import tiny
from tests.commands import run


def published(family, size):
    return from_dict(importlib.import_module(f"configs.{family}").get_config(size).to_dict())


CONFIGS = [pytest.param(f, s, id=f"{f}_{s}") for f, s in figures.ROWS]


@pytest.mark.parametrize(("family", "size"), CONFIGS)
def test_configs_have_the_papers_rows(family, size):
    """And the passes of a row are those that the way of sampling takes."""
    config = published(family, size)
    rows = figures.rows_of(config)
    assert rows == figures.ROWS[family, size]
    for row in rows:
        assert row.method in config.evaluate.methods
        assert ways.parse(row.method).passes(config.groups) == row.passes, row.name


@pytest.mark.parametrize(("family", "size"), CONFIGS)
def test_speed_ups_are_those_of_the_papers_seconds(family, size):
    """Within the rounding of both."""
    rows = figures.ROWS[family, size]
    for row in rows:
        if row.speedup:
            ratio = rows[0].seconds_per_image / row.seconds_per_image
            assert ratio == pytest.approx(row.speedup, rel=0.02), row.name


@pytest.mark.parametrize(("family", "size", "message"), [
    ("llamagen", "XL", r"no rows for llamagen XL at 384 pixels; it has some for var d16, var d20"),
    ("var", "d30", "no rows for var d30 at 256"),
    ("llamagen_t2i", "XL_512", "no rows for llamagen_t2i XL at 512"),
    ("llamagen", "tiny", "no rows for llamagen of another size at 64"),
])
def test_sizes_without_rows_are_named(family, size, message):
    with pytest.raises(UserError, match=message):
        figures.rows_of(published(family, size))


def written(root, rows, **about):
    content = {"rows": rows, "samples": 50_000, "sets": 1, "features": "Inception", **about}
    files.write_json(root / "metrics.json", content)


def cells(text, method):
    """The cells of a method's rows, by title."""
    found = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("| ") and parts[1] == method:
            head = max(j for j in range(i) if lines[j].startswith("| the paper"))
            titles = [part.strip() for part in lines[head].strip("|").split("|")]
            found.append(dict(zip(titles, parts, strict=True)))
    return found


def test_ours_stand_beside_the_papers(tmp_path):
    written(tmp_path, [
        {"method": "data_floor", "fid": 1.0},
        {"method": "teacher_ar", "fid": 4.0, "passes": 256, "seconds_per_image": 1.0,
         "speedup": 1.0, "precision": 0.85, "recall": 0.5, "inception_score": 280.0},
        {"method": "student_1step", "fid": 11.85, "passes": 1, "seconds_per_image": 0.0241,
         "speedup": 200.0, "precision": None, "recall": 0.29, "inception_score": 190.5},
        {"method": "teacher_involved_40_80", "fid": 6.1, "passes": 42},
        {"method": "refine_1", "fid": 5.5, "passes": 2, "seconds_per_image": 0.1, "speedup": 10.0},
    ])
    rows = figures.ROWS["llamagen", "L"]
    ours = table.read(tmp_path)
    text = table.text(rows, ours)
    assert cells(text, "student_1step") == [{
        "the paper's row": "DD 1 step", "method": "student_1step", "steps": "1 / 1",
        "s / image": "0.024 / 0.023 (+0.001)", "speed-up": "200.0 / 217.8 (-17.8)",
        "FID": "11.85 / 11.35 (+0.50)", "IS": "190.5 / 193.6 (-3.1)", "precision": "– / 0.81",
        "recall": "0.29 / 0.30 (-0.01)",
    }]
    (involved,) = cells(text, "teacher_involved_40_80")
    assert involved["the paper's row"] == "teacher 41-81"
    assert involved["FID"] == "6.10 / 6.20 (-0.10)" and involved["steps"] == "42 / 42"
    (refined,) = cells(text, "refine_1")
    assert (refined["the paper's row"], refined["FID"], refined["IS"]) == ("", "5.50", "")
    (teacher,) = cells(text, "teacher_ar")
    assert teacher["speed-up"] == "1.0"  # the paper has none there
    (skipped,) = cells(text, "skip_106")
    assert skipped["FID"] == "– / 19.14" and skipped["steps"] == "– / 150"
    assert not cells(text, "data_floor")
    assert text.index("Table 1") < text.index("student_1step") < text.index("Table 2")
    assert text.index("Table 2") < text.index("| teacher 61-81 |") < text.index("does not have")
    assert "Table 3" not in text and "1 x 50000 samples" in text
    assert set(table.missing(rows, ours)) == {
        "skip_106", "skip_156", "onestep_all", "student_2step", "teacher_involved_0_80",
        "teacher_involved_60_80",
    }


def test_figures_of_another_net_are_left_empty(tmp_path):
    written(tmp_path, [
        {"method": "student_1step", "fd_teacher": 3.0, "precision": 0.9, "recall": 0.9,
         "passes": 1, "seconds_per_image": 0.5, "speedup": 3.0},
    ], features="the last layer of an lpips")
    text = table.text(figures.ROWS["var", "d16"], table.read(tmp_path))
    (row,) = cells(text, "student_1step")
    assert (row["FID"], row["precision"]) == ("– / 9.94", "– / 0.80")
    assert row["s / image"] == "0.500 / 0.021 (+0.479)"
    assert "metrics.json has neither FID nor IS" in text and "the last layer of an lpips" in text


def test_inception_without_a_reference_has_a_score_alone(tmp_path):
    written(tmp_path, [{"method": "student_1step", "fid": None, "inception_score": 190.0}])
    text = table.text(figures.ROWS["var", "d16"], table.read(tmp_path))
    (row,) = cells(text, "student_1step")
    assert (row["FID"], row["IS"]) == ("– / 9.94", "190.0 / 193.6 (-3.6)")
    assert "neither" not in text


@pytest.mark.parametrize("content", ['{"rows": 3}', '{"rows": [{}], "samples": 3}', '{"rows": []}'])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json is not what the stage evaluate writes"):
        table.read(tmp_path)


ROWS = (figures.Published(1, "T", "teacher_ar", 16, 3.0),
        figures.Published(1, "S", "student_1step", 1, 5.0))


def small():
    """The tiny config with random models, which nothing needs to be trained for."""
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    tree["evaluate"]["features"]["weights"] = "random"
    tree["evaluate"].update(methods="teacher_ar", samples=16, batch=2, sets=1)
    return from_dict(tree)


def test_what_is_missing_has_its_command(tmp_path):
    text = making.how_to(small(), tmp_path, ROWS, ["--config=x.py", "--workdir=a b"])
    assert text.startswith(
        "Not yet made: teacher_ar, student_1step. To make them, run: python -m ddjax.main "
        "--config=x.py '--workdir=a b' --config.stages=evaluate "
        "--config.evaluate.methods=teacher_ar,student_1step\n"
    )
    no_weights = dataclasses.replace(
        small(), student=dataclasses.replace(small().student, weights=""),
        teacher=dataclasses.replace(small().teacher, weights=""),
    )
    whole = making.with_methods(no_weights, ROWS)
    assert [stage.name for stage in registry.for_evaluation(whole)] == [
        "teacher", "pairs", "distill", "evaluate"
    ]
    two_steps = figures.Published(1, "S", "student_3step", 3, 5.0)
    with pytest.raises(UserError, match=r"student_3step: student\.steps has 2 steps"):
        making.with_methods(small(), (two_steps,))


@pytest.mark.slow
def test_missing_rows_are_made(tmp_path):
    making.make(small(), tmp_path, ROWS)
    ours = table.read(tmp_path)
    assert table.missing(ROWS, ours) == []
    assert cells(table.text(ROWS, ours), "student_1step")[0]["steps"] == "1 / 1"
    before = (tmp_path / "metrics.json").stat().st_mtime_ns
    making.make(small(), tmp_path, ROWS)
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == before
    written(tmp_path, [{"method": "teacher_ar", "fid": 3.0}])
    with pytest.raises(UserError, match="evaluate has finished without student_1step; move it"):
        making.make(small(), tmp_path, ROWS)
    assert "To make them, move " in making.how_to(small(), tmp_path, ROWS, [])


@pytest.mark.slow
def test_the_command_prints_the_rows_and_what_is_missing(tmp_path):
    written(tmp_path, [{"method": "student_1step", "fid": 12.0, "passes": 1}])
    code, output = run(tmp_path, module="paper", config="configs/llamagen.py:B")
    assert code == 0, output
    assert "| DD 1 step | student_1step | 1 / 1 |" in output and "12.00 / 15.50 (-3.50)" in output
    assert "Not yet made: teacher_ar, student_2step. To make them, run: python -m ddjax.main " \
        f"--config=configs/llamagen.py:B --workdir={tmp_path} " \
        "--config.stages=pairs,distill,evaluate " in output
    code, output = run(tmp_path, module="paper", config="configs/var.py:d30")
    assert code == 1 and output.splitlines()[-1].startswith("error: config.teacher: the paper has")
