"""One's own images: crops, classes, the split, what is left out, and what is kept on disk."""

import os

import numpy as np
import pytest
from PIL import Image

from ddjax.data import datasets, prepared
from ddjax.runtime.errors import UserError
from tests.pictures_folder import folder, picture, section


def everything(source):
    return source.take(np.arange(len(source)))


def test_images_are_the_centre_of_the_files_in_order_of_class_and_name(tmp_path):
    folder(tmp_path / "images", {"b": 2, "a": 3}, width=24)
    found = datasets.source(section(tmp_path, 2))
    rows = everything(found)
    assert rows["image"].shape == (5, 8, 8, 3) and rows["image"].dtype == np.float32
    assert rows["label"].tolist() == [0, 0, 0, 1, 1] and list(found.classes) == ["a", "b"]
    for image, number in zip(rows["image"], (2, 3, 4, 0, 1), strict=True):
        whole = picture(number, width=24).resize((16, 8), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(image, np.asarray(whole)[:, 4:12] / 127.5 - 1, atol=1e-6)


def test_resizing_averages_what_a_pixel_covers():
    """Stripes of one pixel: without antialiasing they come out black or white, not grey."""
    stripes = np.tile(np.array([0, 255] * 32, np.uint8)[None, :, None], (64, 1, 3))
    assert np.abs(prepared.square(stripes, 8, 1).astype(int) - 127).max() <= 8


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGB", 1)])
def test_colours_become_grey_and_grey_fills_three_channels(tmp_path, mode, channels):
    folder(tmp_path / "images", {"": 3}, mode=mode, width=24)
    image = everything(datasets.source(section(tmp_path, 1, channels=channels)))["image"]
    assert image.shape[-1] == channels
    whole = picture(0, width=24, mode="L").resize((16, 8), Image.Resampling.BICUBIC)
    wanted = np.asarray(whole)[:, 4:12] / 127.5 - 1
    np.testing.assert_allclose(image[0, :, :, 0], wanted, atol=2 / 255)
    assert (image == image[..., :1]).all()


def test_the_split_is_by_name_whatever_else_is_there():
    names = [f"class/{i}.png" for i in range(2000)]
    whole = prepared.held_out(names)
    assert 0.08 < whole.mean() < 0.12
    order = np.random.default_rng(0).permutation(2000)[:300]
    np.testing.assert_array_equal(prepared.held_out([names[i] for i in order]), whole[order])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_a_few_images_one_is_held_out_and_one_is_not(count):
    for start in range(200):
        chosen = prepared.held_out([f"{start + i}.jpg" for i in range(count)])
        assert 0 < chosen.sum() < count


def test_training_reads_what_is_not_held_out(tmp_path):
    folder(tmp_path / "images", {"": 30})
    found = datasets.source(section(tmp_path, 1))
    seen = everything(found.seen)["source"]
    assert seen.tolist() == np.flatnonzero(~found.held_out).tolist()


def test_prepared_images_are_read_again_without_their_files(tmp_path, monkeypatch):
    folder(tmp_path / "images", {"a": 3, "b": 3})
    first = everything(datasets.source(section(tmp_path, 2)))
    monkeypatch.setattr(datasets.ImageFolder, "read", None)
    again = everything(datasets.source(section(tmp_path, 2)))
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("change", ["content", "name", "asked size"])
def test_another_folder_is_prepared_again(tmp_path, change):
    root = folder(tmp_path / "images", {"": 4})
    config = section(tmp_path, 1)
    before = datasets.source(config)
    if change == "content":
        picture(7).save(root / "1.png")
    elif change == "name":
        (root / "1.png").rename(root / "5.png")
    else:
        config = section(tmp_path, 1, size=4)
    after = datasets.source(config)
    assert after.digest != before.digest
    assert len(list((tmp_path / "cache").glob("*/pixels"))) == 2


def test_a_preparation_that_fails_leaves_nothing(tmp_path):
    root = folder(tmp_path / "images", {"": 4})
    (root / "2.png").write_text("no image")
    with pytest.raises(UserError, match=r"2\.png.*skip_at_most"):
        datasets.source(section(tmp_path, 1))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_killed_preparation_left_is_removed(tmp_path):
    folder(tmp_path / "images", {"": 4})
    datasets.source(section(tmp_path, 1))
    made = next((tmp_path / "cache").glob("*/pixels")).parent
    left = made.rename(made.with_name(f"{made.name}.abc.tmp"))
    datasets.source(section(tmp_path, 1))
    assert made.exists() and not left.exists()


def test_unreadable_files_are_left_out_up_to_a_share(tmp_path):
    root = folder(tmp_path / "images", {"": 10})
    whole = (root / "4.png").read_bytes()
    (root / "4.png").write_bytes(whole[: len(whole) // 2])
    found = datasets.source(section(tmp_path, 1, skip_at_most=0.1))
    assert len(found) == 9 and found.known["source"].tolist() == list(range(9))
    assert len(found.skipped) == 1 and "4.png" in found.skipped[0]
    assert any("1 of 10" in remark and "4.png" in remark for remark in found.remarks)
    # What was prepared with a larger share does not get past a smaller one.
    with pytest.raises(UserError, match=r"4\.png"):
        datasets.source(section(tmp_path, 1, skip_at_most=0.09))


@pytest.mark.parametrize(("name", "content"), [
    ("pixels", lambda whole: whole[:-1]), ("pixels", None), ("about.json", None),
    ("about.json", lambda whole: whole[:-1]), ("about.json", lambda whole: b"{}"),
])
def test_a_damaged_cache_is_named(tmp_path, name, content):
    folder(tmp_path / "images", {"": 4})
    datasets.source(section(tmp_path, 1))
    path = next((tmp_path / "cache").glob(f"*/{name}"))
    whole = path.read_bytes()
    path.unlink()
    if content:
        path.write_bytes(content(whole))
    with pytest.raises(UserError, match=f"{path.parent} is damaged; remove it"):
        datasets.source(section(tmp_path, 1))


@pytest.mark.parametrize(
    ("counts", "classes", "message"),
    [
        ({}, 1, r"images is no folder of images"),
        ({"": 0}, 1, r"images has no images"),
        ({"": 1}, 1, r"images has one image that can be read"),
        ({"cat": 3, "dog": 1}, 2, r"class dog of .*images has one image "),
        ({"cat": 3, "dog": 3, "eel": 2}, 2, r"num_classes: got 2, must be 3: .*cat, dog, eel"),
        ({"cat": 3, "dog": 3}, 3, r"num_classes: got 3, must be 2: .*cat, dog"),
        ({"": 3}, 2, r"num_classes: got 2, must be 1: .*no sub-folders"),
        ({"": 2, "cat": 2}, 2, r"0\.png lies beside folders of classes, such as .*cat"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_named(tmp_path, counts, classes, message):
    folder(tmp_path / "images", counts)
    with pytest.raises(UserError, match=message) as error:
        datasets.source(section(tmp_path, classes))
    assert "\n" not in str(error.value)


def test_grey_among_colour_and_small_images_are_told(tmp_path):
    root = folder(tmp_path / "images", {"": 4})
    picture(9, mode="L").save(root / "8.png")
    picture(9, 5, 20).save(root / "9.png")
    remarks = " ".join(datasets.source(section(tmp_path, 1)).remarks)
    assert "1 of 6 images are grey, such as 8.png" in remarks
    assert "1 of 6 images are smaller than 8 pixels, such as 9.png" in remarks
    assert not datasets.source(section(tmp_path, 1, size=4, channels=1)).remarks


def test_a_file_changed_within_is_noticed_by_its_time(tmp_path):
    root = folder(tmp_path / "images", {"": 3})
    before = datasets.ImageFolder(section(tmp_path, 1)).digest
    content = (root / "1.png").read_bytes()
    os.utime(root / "1.png", ns=(1, (root / "1.png").stat().st_mtime_ns + 1))
    assert datasets.ImageFolder(section(tmp_path, 1)).digest != before
    assert (root / "1.png").read_bytes() == content
