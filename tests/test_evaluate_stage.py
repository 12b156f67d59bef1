"""The stage `evaluate` as a whole: killed on the way, with a reference and labels of its own."""

import json
import re

import jax
import numpy as np
import pytest

from ddjax.config.reading import from_dict
from ddjax.data import datasets
from ddjax.data.sources import Images
from ddjax.evaluation import plots, statistics_files
from ddjax.evaluation.nearest import nearest
from ddjax.evaluation.set_folder import SetFolder
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import evaluate, report_pictures, running
from ddjax.stages.registry import STAGES
from ddjax.storage import run_models
from tests.test_evaluate import config

TIMES = {"seconds_per_image": None, "speedup": None}


@pytest.fixture(scope="module", autouse=True)
def few_data():
    """A hundred images, since each save waits for the disk."""
    source = datasets.source

    def few(section):
        found = source(section).take(np.arange(100))
        return Images(found.pop("image"), found, np.arange(100) % 10 == 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "source", few)
        yield


def job(**changes):
    tree = config(methods="student_1step,teacher_flow", samples=26, batch=8, sets=2,
                  checkpoint_every=1)
    tree["evaluate"]["features"]["weights"] = "random"
    tree["evaluate"].update(changes)
    return from_dict(tree)


def run(root, **changes):
    with jax.set_mesh(sharding.one_device()):
        evaluate.run(job(**changes), root / "evaluate")
    metrics = json.loads((root / "metrics.json").read_text())
    return metrics, [{**row, **TIMES} for row in metrics["rows"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return root, *run(root)


def test_killed_again_and_again_it_ends_with_the_very_same_figures(whole, tmp_path, monkeypatch):
    """At saves all over the job: of data, of the reference set, of the second set of a way."""
    save, saves = SetFolder.save, []

    def killed(folder, making):
        save(folder, making)
        saves.append((folder.directory, making.done))
        if len(saves) in (3, 12, 29, 38, 45):
            raise KeyboardInterrupt

    monkeypatch.setattr(SetFolder, "save", killed)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    _, rows = run(tmp_path)
    assert rows == whole[2]
    assert len(saves) == len(set(saves)) == 7 + 7 + 13 + 5 * 4  # no batch was made twice


def test_the_report_says_how_the_figures_are_made(whole):
    root, metrics, rows = whole
    assert metrics["labels"] == "in_turn"
    assert metrics["reference"] == {
        "name": "the data, digits", "count": 100, "for_precision_recall": 26,
    }
    assert metrics["network"] == {
        "kind": "classifier", "digest": "random", "resize": "", "width": 8,
    }
    report = (root / "report.md").read_text()
    for text in ("Samples are compared with the data, digits: 100 images.",
                 "precision and recall are against 26 images", "as many images of each as there",
                 "rounded to 8 bits", "was not drawing: compiling"):
        assert text in report
    assert [row["method"] for row in rows] == [
        "data_floor", "reconstruction", "student_1step", "teacher_flow"]
    assert 0 <= metrics["measuring_share"]["student_1step"] <= 1


def test_the_report_shows_its_pictures(whole, tmp_path, monkeypatch):
    """Those that there are: of no student without one, of no validation without one."""
    drawn, by_position, searched = [], plots.by_position, []
    monkeypatch.setattr(plots, "by_position", lambda *given: drawn.append(given))

    def recorded(features_NF, batches):
        batches = list(batches)
        searched.append((len(features_NF), sum(map(len, batches))))
        return nearest(features_NF, batches)

    monkeypatch.setattr(report_pictures, "nearest", recorded)
    _, rows = run(tmp_path)
    monkeypatch.setattr(plots, "by_position", by_position)
    (_, lines, chance, starts), = drawn
    # Ten samples and the ten held-out images, among all that training may read.
    assert searched == [(10 + 10, 90)]
    (student,) = [row for row in rows if row["method"] == "student_1step"]
    assert list(lines) == ["student_1step"] and lines["student_1step"].shape == (16,)
    assert lines["student_1step"].mean() == pytest.approx(student["tokens_equal"])
    assert chance is None and starts == ()  # teacher_ar is no row, and groups are tokens
    run(tmp_path / "teacher", methods="teacher_ar", sets=1)
    common = ["samples.png", "tradeoff.png"]
    for root, files in ((whole[0], [*common, "tokens_equal.png", "nearest.png"]),
                        (tmp_path / "teacher", common)):
        text = (root / "report.md").read_text()
        assert re.findall(r"!\[.+\]\((.+)\)", text) == files
        assert all((root / name).exists() for name in files)
        assert ("held-out images are" in text) == (len(files) > 2)


def test_a_reference_of_ones_own(whole, tmp_path):
    """Samples that were kept, as the reference: the distance of a set to itself is 0."""
    kept = tmp_path / "kept"
    run(kept, keep="npz", sets=1)
    samples = kept / "evaluate" / "student_1step" / "set_0" / "samples.npz"
    with np.load(samples) as found:
        assert found["arr_0"].shape == (26, 8, 8, 1) and found["arr_0"].std() > 1
    metrics, rows = run(tmp_path / "own", reference=str(samples), sets=1)
    by_method = {row["method"]: row for row in rows}
    assert by_method["student_1step"]["fd_data"] == pytest.approx(0, abs=1e-6)
    assert by_method["student_1step"]["precision"] == by_method["student_1step"]["recall"] == 1
    assert by_method["teacher_flow"]["fd_data"] > 1e-4
    floor = {row["method"]: row for row in whole[2]}["data_floor"]
    assert by_method["data_floor"] == floor  # one half of the data against the other, as always
    assert metrics["reference"] == {
        "name": str(samples), "count": 26, "for_precision_recall": 26}


def test_a_reference_that_does_not_fit_is_refused_before_anything_is_drawn(tmp_path):
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((9, 16, 16, 1), np.uint8))
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((3, 8, 8, 1), np.uint8))
    for name, message in (
        ("wide", r"statistics of 2048 features, this classifier has 8: they are of another net"),
        ("large", r"images are 16 x 16 pixels, and this classifier takes 8 x 8 alone"),
        ("few", r"few\.npz has 3 images; must be at least 4"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path / name, reference=str(tmp_path / f"{name}.npz"))
        assert not list((tmp_path / name / "evaluate").glob("student_1step"))
    with pytest.raises(UserError, match=r"config\.evaluate\.reference: .*nowhere\.npz is missing"):
        running.settings(job(reference=str(tmp_path / "nowhere.npz")), STAGES["evaluate"])


def test_a_reference_is_known_by_what_it_holds(tmp_path):
    settings = []
    for mean in (0, 0, 1):
        path = tmp_path / f"{len(settings)}.npz"
        np.savez(path, mu=np.full(8, float(mean)), sigma=np.eye(8))
        settings.append(running.settings(job(reference=str(path)), STAGES["evaluate"]))
    assert settings[0] == settings[1] != settings[2]
    assert statistics_files.read(path).pooled.mean_F[0] == 1


def test_samples_of_other_models_are_not_mixed(tmp_path, monkeypatch):
    run(tmp_path, sets=1)
    digest = run_models.digest
    monkeypatch.setattr(
        run_models, "digest", lambda config, root, role: "other" * (role == "student")
        or digest(config, root, role)
    )
    with pytest.raises(UserError, match=r"holds samples of another student than is there now; put"):
        run(tmp_path, sets=1)


def test_random_labels(tmp_path, whole):
    metrics, rows = run(tmp_path, labels="random", sets=1)
    assert metrics["labels"] == "random"
    assert "drawn at random" in (tmp_path / "report.md").read_text()
    drawn = [row for row in rows if row["method"] == "teacher_flow"]
    assert drawn != [row for row in whole[2] if row["method"] == "teacher_flow"]
    assert drawn[0]["tokens_equal"] == 1


@pytest.mark.parametrize(("key", "value", "message"), [
    ("labels", "all", r"evaluate\.labels: got all, must be one of in_turn, random"),
    ("keep", "jpg", r"evaluate\.keep: got jpg, must be npz, png, or empty"),
    ("checkpoint_every", 0, r"evaluate\.checkpoint_every: got 0, must be >= 1"),
])
def test_wrong_keys_are_refused(key, value, message):
    with pytest.raises(UserError, match=message):
        job(**{key: value})


def test_whether_samples_are_kept_decides_the_stage_and_how_often_it_saves_does_not():
    settings = running.settings(job(), STAGES["evaluate"])
    assert settings["evaluate.keep"] == "" and "evaluate.checkpoint_every" not in settings
    assert not any(key.endswith("train.keep") for key in settings)
