"""The demo: what it understands, draws and says; in test_demo_page.py it is used in a browser."""

import concurrent.futures
import dataclasses
import io
import json
import re
import socket
import threading
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddjax import cli
from ddjax.config import from_dict
from ddjax.data.conditions import CaptionTexts
from ddjax.demo import address, memory, models, png, requests, words
from ddjax.demo.drawing import Studio
from ddjax.demo.events import Events
from ddjax.method.guidance import Guidance
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests import tiny
from tests.commands import call


@pytest.fixture(scope="module")
def pipe():
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    return Pipeline.from_config(from_dict(tree), Path("nowhere"), batch=16)


@pytest.fixture(scope="module")
def studio(pipe):
    return Studio(pipe)


def asked(pipe, text="3,7", count=2, seed=5, ticked=("student_1step",), others="", scale=1.5):
    guidance = dataclasses.replace(pipe.settings.guidance, scale=scale)
    return requests.read(pipe, text, count, seed, list(ticked), others, guidance)


def test_fields_become_a_request(pipe):
    found = asked(pipe, " 3, 7 ", 4, ticked=["refine_1"], others="skip_4, refine_1")
    assert found.call == {"labels": (3, 7, 3, 7)} and found.methods == ("refine_1", "skip_4")
    assert asked(pipe, "", 2).call == {"labels": (0, 1)}


@pytest.mark.parametrize(("fields", "message"), [
    ({"text": "10"}, r"class: got 10, must be whole numbers in 0\.\.9"),
    ({"text": "cat"}, r"class: got cat, must be"),
    ({"text": "-1"}, r"class: got -1, must be"),
    ({"count": 3}, "images: got 3, must be one of 1, 2, 4, 8, 16"),
    ({"count": None}, "images: got None"),
    ({"seed": None}, "seed: got None, must be a whole number"),
    ({"seed": -1}, "seed: got -1"),
    ({"seed": 0.5}, "seed: got 0.5"),
    ({"ticked": ()}, "methods: none is ticked"),
    ({"others": "magic"}, "'magic' is unknown; known are"),
])
def test_fields_that_mean_nothing_are_refused_by_name(pipe, fields, message):
    with pytest.raises(UserError, match=message):
        asked(pipe, **fields)


def test_prompts_are_lines_and_none_is_refused():
    known = CaptionTexts(["a dot"], str.strip, None, None, tokens=4, width=8)
    asked = " a red fox \n\n<b>an owl</b>, at dusk\n"
    assert requests.conditions(known, asked) == ("prompts", ["a red fox", "<b>an owl</b>, at dusk"])
    with pytest.raises(UserError, match="prompt: it is blank, describe an image"):
        requests.conditions(known, " \n ")


def test_methods_go_with_the_models(pipe):
    names = [way.name for way in requests.methods(pipe, {"student"})]
    assert names == ["student_1step", "student_2step"]
    both = {way.name for way in requests.methods(pipe, {"teacher", "student"})}
    assert {"teacher_flow", "teacher_ar", "refine_3", "student_2step"} <= both


def test_a_row_is_what_the_pipeline_draws(pipe, studio):
    request = asked(pipe, ticked=["teacher_flow", "student_1step"])
    exact = studio.draw(request, "teacher_flow")
    row = studio.draw(request, "student_1step")
    wanted = pipe(labels=[3, 7], method="student_1step", seed=5)
    np.testing.assert_array_equal(row.out.ids, wanted.ids)
    assert (exact.passes, row.passes, exact.equal(exact)) == (16, 1, 1.0)
    assert row.equal(exact) == np.mean(wanted.ids == exact.out.ids) < 1
    assert row.milliseconds == pytest.approx(row.out.seconds * 1e3 / 2)


def test_what_one_thread_compiles_another_waits_for(pipe, monkeypatch):
    """The page warms up while its first visitor draws; any other program does not wait."""
    studio, begun, release = Studio(pipe), [], threading.Event()

    def compile_slowly(way, count, **_):
        begun.append(way.name)
        assert way.name != "teacher_flow" or release.wait(30)
        return 0

    monkeypatch.setattr(pipe, "prepare", compile_slowly)
    request = asked(pipe)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(studio.prepare, request, "teacher_flow") for _ in range(2)]
        concurrent.futures.wait(both, timeout=0.5)
        studio.prepare(request, "student_1step")
        assert begun == ["teacher_flow", "student_1step"]
        release.set()
        assert [one.result(30) for one in both] == [None, None]


def test_a_png_tells_how_to_draw_it_again(pipe, studio):
    row = studio.draw(asked(pipe), "student_1step")
    content = png.encoded(row.out.pil()[1], row.about[1])
    image = Image.open(io.BytesIO(content))
    about = json.loads(image.text[png.KEY])
    assert about["title"] == "7" and "seed 5" in image.text["Description"]
    again = pipe.guided(Guidance(**about["guidance"]))(**about["call"]).pil()[about["position"]]
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


def test_captions_of_any_characters_are_kept_and_are_no_mark_up(pipe, studio):
    row = studio.draw(asked(pipe), "student_1step")
    title = '<script>alert("é 狐")</script>'
    row.out.titles[1] = row.about[1]["title"] = title
    page = words.gallery([row], 1)
    assert "<script" not in page and "&lt;script&gt;" in page
    content = png.encoded(row.out.pil()[1], row.about[1])
    image = Image.open(io.BytesIO(content))
    assert json.loads(image.text[png.KEY])["title"] == title
    assert png.file_name(row.about[1]) == "student_1step-seed5-1-script-alert-script.png"


def test_the_archive_holds_all_images(pipe, studio):
    row = studio.draw(asked(pipe), "student_1step")
    files = {png.file_name(about): b"x" for about in row.about}
    assert zipfile.ZipFile(io.BytesIO(png.archive(files))).namelist() == [
        "student_1step-seed5-0-3.png", "student_1step-seed5-1-7.png",
    ]


def fields(**changed):
    given = {"asked": "3,7", "count": 2, "seed": 5, "ticked": ["student_1step"], "others": "",
             "scale": 1.5, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return list({**given, **changed}.values())


def test_the_gallery_draws_few_passes_first_and_compares_with_the_map_above(studio):
    ticked = ["teacher_flow", "student_2step", "student_1step"]
    empty, first, second, page = Events(studio).gallery(*fields(ticked=ticked))
    assert "Drawing student_1step, 0 of 3" in empty and "<img" not in empty
    assert first.count("<img") == 2 and "1 of 3" in first and "of tokens equal" not in first
    assert second.count("<img") == 4 and "Drawing teacher_flow, 2 of 3" in second
    assert page.count("<img") == 6 and page.count("of tokens equal the map's") == 3
    assert "Drawing" not in page and "zip" in page and "zip" not in second
    assert page.index("teacher_flow") < page.index("student_1step")
    assert "100% of tokens" in page and "16 passes" in page and "1 pass<" in page


def test_every_field_of_guidance_is_read(studio):
    given = {"scale": 8.0, "temperature": 0.5, "top_k": 7, "top_p": 0.9}
    found = Events(studio).read(*fields(**given)).guidance
    assert {name: getattr(found, name) for name in given} == given
    assert found.schedule == studio.pipe.settings.guidance.schedule


def test_guidance_reaches_the_teacher_and_no_others(studio):
    plain, guided = (
        studio.draw(asked(studio.pipe, scale=scale), "teacher_flow") for scale in (1.0, 8.0)
    )
    assert (plain.out.ids != guided.out.ids).any()
    assert guided.about[0]["guidance"]["scale"] == 8.0


def test_a_trajectory_goes_from_noise_to_the_image(pipe, studio):
    request = asked(pipe, ticked=["teacher_flow"])
    wanted = pipe.trajectory(labels=[3, 7], method="teacher_flow", seed=5)
    for k in (0, 6, 16):
        found = studio.frames(request, "teacher_flow", k).out.images
        np.testing.assert_allclose(found, wanted.images[k], atol=1e-5)


def test_a_comparison_ends_with_both_images_and_how_much_longer(studio):
    *_, page = Events(studio).compare("student_1step", "teacher_flow", *fields())
    assert page.count("<img") == 4 and "times as long as" in page


@pytest.mark.parametrize(("event", "arguments", "message"), [
    ("gallery", fields(asked="99"), "class: got 99"),
    ("gallery", fields(ticked=[]), "methods: none is ticked"),
    ("gallery", fields(others="refine_0"), "refine_0: needs at least one pass"),
    ("gallery", fields(top_p=None), "guidance: a number is missing"),
    ("trajectory", [0, "teacher_ar", *fields()], "teacher_ar draws at random"),
    ("compare", ["student_1step", "student_9step", *fields()], "student.steps has 2 steps"),
])
def test_whatever_goes_wrong_is_said_on_the_page(studio, event, arguments, message):
    *_, page = getattr(Events(studio), event)(*arguments)
    assert 'role="alert"' in page and message in page and "Traceback" not in page


def test_a_fault_of_ours_is_said_without_a_traceback(studio, monkeypatch, capsys):
    monkeypatch.setattr(studio, "draw", lambda *_: 1 / 0)
    *_, page = Events(studio).gallery(*fields())
    assert "(ZeroDivisionError); the terminal" in page and "Traceback" in capsys.readouterr().err


def test_a_request_larger_than_memory_is_refused(studio, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 1000)
    with pytest.raises(UserError, match=r"2 images by student_1step take .* GiB of memory, and 0"):
        studio.prepare(asked(studio.pipe), "student_1step")


def test_folders_in_place_of_a_workdir(pipe, tmp_path):
    for role in ("tokenizer", "student"):
        model = pipe._load(role)
        kind = {"tokenizer": "patch_tokenizer", "student": "llamagen_student"}[role]
        model_folder.save(tmp_path / role, kind, model)
    given = {"steps": ["0", "5"], "split": 10, "guidance": Guidance()}
    found = models.of_folders(tmp_path / "tokenizer", tmp_path / "student", None, **given)
    wanted = pipe(labels=[3, 7], method="student_2step", seed=5).ids
    np.testing.assert_array_equal(
        found.pipe(labels=[3, 7], method="student_2step", seed=5).ids, wanted
    )
    assert found.parts == {"student"} and found.name == "student"
    with pytest.raises(UserError, match=r"--steps=0,b: give whole numbers, such as 0,80"):
        models.of_folders("x", "y", None, **given | {"steps": ["0", "b"]})
    weights = tmp_path / "student/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"student/weights\.safetensors is damaged"):
        models.of_folders(tmp_path / "tokenizer", tmp_path / "student", None, **given)


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port} is in use; give another"):
            address.check("127.0.0.1", port)
    address.check("127.0.0.1", port)
    with pytest.raises(UserError, match="--address=home is no IP address, such as 127"):
        address.check("home", port)


def test_an_occupied_device_is_one_line(pipe, monkeypatch):
    def occupied(way):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")

    monkeypatch.setattr(pipe, "models", occupied)
    with pytest.raises(UserError, match=r"no room for the models \(RESOURCE_EXHAUSTED: Out of mem"):
        models._read(models.Models(pipe, {"student"}, "x"))


def test_a_backend_that_is_not_there_is_one_line():
    error = RuntimeError("Unable to initialize backend 'cuda': busy\nmore")
    said = cli._for_people(error)
    assert said.startswith("the accelerator cannot be used (Unable to init") and "more" not in said


def test_who_can_reach_the_page_is_said():
    assert "whoever reaches this machine on port 80" in address.warning("0.0.0.0", 80)
    assert not address.warning("127.0.0.1", 80) and not address.warning("::1", 80)
    assert address.url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert address.url("::1", 80) == "http://[::1]:80"


@pytest.mark.parametrize(("given", "message"), [
    ((), "give --workdir=runs/digits, of a finished run, or --tokenizer=FOLDER and"),
    (("--workdir=nowhere",), "nowhere is no workdir of a run that has a teacher or a student"),
    (("--workdir=nowhere", "--student=x"), "--workdir: got model folders too"),
])
def test_a_command_that_cannot_start_ends_in_one_line(given, message):
    code, output = call("ddjax.demo", *given)
    assert code == 1
    assert re.fullmatch(f"error: {message}.*\n", output), output
