"""Image files of every mode, and files that are none."""

import numpy as np
import pytest
from PIL import Image

from ddjax.data import image_files
from ddjax.runtime.errors import UserError

RNG = np.random.default_rng(0)


def saved(path, mode, array=None):
    image = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), np.uint8))
    image = image.convert(mode) if array is None else Image.fromarray(array, mode)
    image.save(path)
    return image


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_mode_without_alpha_is_as_pillow_converts_it(tmp_path, mode):
    image = saved(tmp_path / "a.png", mode)
    found = image_files.read(tmp_path / "a.png")
    assert found.mode == mode
    np.testing.assert_array_equal(found.rgb_HWC, np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_scaled(tmp_path):
    grey = np.array([[0, 257 * 7, 257 * 128 + 128, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = image_files.read(tmp_path / "a.png")
    assert found.mode.startswith("I")
    np.testing.assert_array_equal(found.rgb_HWC[0, :, 1], [0, 7, 128, 255])


def test_alpha_is_laid_on_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = image_files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(
        found.rgb_HWC[0], [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    )


def test_cmyk_is_converted(tmp_path):
    image = saved(tmp_path / "a.jpg", "CMYK")
    found = image_files.read(tmp_path / "a.jpg")
    assert found.mode == "CMYK" and found.rgb_HWC.shape == (*image.size[::-1], 3)


def test_exif_turns(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "a.png", exif=exif)
    found = image_files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.rgb_HWC, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_truncated_file_is_named(tmp_path, ending):
    path = tmp_path / f"half.{ending}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"half.{ending}"):
        image_files.read(path)


def test_a_program_under_an_image_s_name_is_not_run(tmp_path, monkeypatch):
    """Pillow tells files by their content, and gives PostScript to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: pytest.fail("it was run"))
    Image.new("RGB", (5, 7)).save(tmp_path / "a.png", format="eps")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        image_files.read(tmp_path / "a.png")


def test_text_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("<svg/>")
    with pytest.raises(UserError, match=r"a\.png"):
        image_files.read(tmp_path / "a.png")


def test_an_image_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    saved(tmp_path / "a.png", "RGB")  # 35 pixels: Pillow warns
    with pytest.raises(UserError, match=r"a\.png"):
        image_files.read(tmp_path / "a.png")


def test_images_are_found_in_order_below_a_folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "a.jpg", "b/1.png", "notes.txt"):
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in image_files.find(tmp_path)]
    assert found == ["a.jpg", "b/1.png", "b/2.PNG"]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_images_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        image_files.find(tmp_path / name)
