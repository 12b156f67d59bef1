"""Image sets and statistics files of others: read as they are, or refused by name."""

import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddjax.evaluation import image_sets, statistics_files
from ddjax.evaluation.frechet import Gaussian
from ddjax.evaluation.image_sets import open_images
from ddjax.evaluation.network import Network
from ddjax.evaluation.reference import Reference
from ddjax.runtime.errors import UserError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, size=(6, 5, 4, 3), dtype=np.uint8)
OURS = Network("inception", "abc", "tf1")


def statistics(width=4, **others):
    m = RNG.normal(size=(width, width))
    return {"mu": RNG.normal(size=width), "sigma": m @ m.T, **others}


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def folder(tmp_path):
    for i, levels in enumerate(LEVELS):
        Image.fromarray(levels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_folder_is_read_by_number(folder):
    images = open_images(folder)
    assert len(images) == 6 and images.shape == (5, 4, 3) and images.remark() == ""
    np.testing.assert_array_equal(images.take(np.array([4, 0, 4]))["image"], LEVELS[[4, 0, 4]])


def test_what_is_converted_is_counted(folder):
    Image.fromarray(LEVELS[0]).convert("CMYK").save(folder / "1.jpg")
    Image.fromarray(LEVELS[0]).convert("RGBA").save(folder / "2.png")
    Image.fromarray(np.full((5, 4), 257 * 9, np.uint16)).save(folder / "3.png")
    images = open_images(folder)
    found = images.take(np.arange(7))["image"]
    assert (found[4] == 9).all()  # 3.png, behind 0.png, 1.jpg, 1.png and 2.png
    assert images.remark() == (
        f"{folder}: converted to RGB: 1 of mode CMYK, 1 of mode I;16, 1 of mode RGBA"
    )
    images.take(np.arange(3))
    assert "1 of mode CMYK" in images.remark()  # each counts once


def test_images_of_several_sizes_are_refused(folder):
    Image.fromarray(LEVELS[0][:3]).save(folder / "4.png")
    message = r"4\.png is 4 x 3 pixels, and .*0\.png is 4 x 5; crop and resize"
    with pytest.raises(UserError, match=message):
        open_images(folder).take(np.arange(6))


def test_a_truncated_image_is_named(folder):
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"2\.png cannot be read as an image"):
        open_images(folder).take(np.arange(6))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_by_number_and_never_as_a_whole(tmp_path, monkeypatch, save):
    save(tmp_path / "x.npz", arr_0=LEVELS, arr_1=np.zeros(6))
    monkeypatch.setattr(np, "load", None)
    images = open_images(tmp_path / "x.npz")
    assert len(images) == 6 and images.shape == (5, 4, 3)
    for rows in ([0, 1, 2], [3, 3, 5], [1, 0]):
        np.testing.assert_array_equal(images.take(np.array(rows))["image"], LEVELS[rows])


@pytest.mark.parametrize(("name", "arrays", "message"), [
    ("x.npz", {"arr_0": LEVELS / 255}, r"arr_0 is float64 \[6, 5, 4, 3\], must be uint8 images"),
    ("x.npz", {"arr_0": LEVELS[0]}, r"arr_0 is uint8 \[5, 4, 3\], must be uint8 images \[N"),
    ("x.npz", {"images": LEVELS}, r"x\.npz has no array arr_0"),
    ("x.npz", None, r"x\.npz is missing; give a folder of PNG"),
    ("x.txt", b"?", r"x\.txt is neither a folder of images nor an \.npz"),
    ("x.npz", b"?", r"x\.npz cannot be read as \.npz"),
])
def test_what_is_no_image_set_is_refused(tmp_path, name, arrays, message):
    if isinstance(arrays, bytes):
        (tmp_path / name).write_bytes(arrays)
    elif arrays:
        saved(tmp_path / name, **arrays)
    with pytest.raises(UserError, match=message):
        open_images(tmp_path / name)


def test_a_truncated_npz_is_named(tmp_path):
    """Its directory says more than there is."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": LEVELS.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(LEVELS[:3].tobytes())
    with pytest.raises(UserError, match=r"x\.npz: it ends before image 3"):
        open_images(path).take(np.arange(6))


def claiming(path, name, shape):
    """An archive whose array has only a header."""
    with zipfile.ZipFile(path, "w") as archive, archive.open(name, "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
    return path


def encrypted(path):
    """An archive whose first record says that it needs a password."""
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def test_an_npz_that_would_fill_memory_or_needs_a_password_is_named(tmp_path):
    large = claiming(tmp_path / "large.npz", "mu.npy", (10**15,))
    with pytest.raises(UserError, match=r"large\.npz cannot be read as \.npz \(Unable to allocate"):
        statistics_files.read(large)
    secret = encrypted(claiming(tmp_path / "secret.npz", "arr_0.npy", LEVELS.shape))
    with pytest.raises(UserError, match=r"secret\.npz cannot be read as \.npz \(.*password"):
        open_images(secret)
    with pytest.raises(UserError, match=r"mu\.npz cannot be read as \.npz \(.*password"):
        statistics_files.read(encrypted(claiming(tmp_path / "mu.npz", "mu.npy", (3,))))


def test_digests_tell_sets_apart(folder, tmp_path):
    before = image_sets.digest(folder, "key")
    assert image_sets.digest(folder, "key") == before
    (folder / "5.png").unlink()
    assert image_sets.digest(folder, "key") != before
    with pytest.raises(UserError, match=r"key: .*nowhere is missing; give a folder"):
        image_sets.digest(tmp_path / "nowhere", "key")


def test_statistics_of_all_tools(tmp_path):
    adm = statistics(mu_s=np.zeros(3), sigma_s=np.eye(3), arr_0=LEVELS)
    found = statistics_files.read(saved(tmp_path / "adm.npz", **adm))
    np.testing.assert_array_equal(found.pooled.cov_FF, adm["sigma"])
    assert found.spatial.mean_F.shape == (3,) and found.has_images
    assert found.count is found.network is None
    found = statistics_files.read(saved(tmp_path / "pytorch_fid.npz", **statistics()))
    assert found.pooled.mean_F.shape == (4,) and not found.has_images and found.spatial is None
    found = statistics_files.read(saved(tmp_path / "samples.npz", arr_0=LEVELS))
    assert found.pooled is None and found.has_images


def test_our_own_statistics_say_what_they_are_of(tmp_path):
    m = statistics()
    made = Gaussian(m["mu"], m["sigma"])
    path = tmp_path / "ours.npz"
    statistics_files.write(path, Reference(OURS, "x", 7, made, made))
    found = statistics_files.read(path)
    assert (found.count, found.network) == (7, OURS)
    np.testing.assert_array_equal(found.spatial.cov_FF, m["sigma"])
    statistics_files.check(path, found, OURS, 4)
    for other, message in (
        (OURS._replace(resize="half_pixel"), r"another resize, tf1, than is used here, half_pixel"),
        (OURS._replace(digest="xyz"), r"another digest, abc, than is used here, xyz; make it"),
        (OURS._replace(kind="lpips"), r"another kind, inception, than is used here, lpips"),
    ):
        with pytest.raises(UserError, match=message):
            statistics_files.check(path, found, other, 4)
    with pytest.raises(UserError, match=r"has statistics of 4 features, this inception has 2048"):
        statistics_files.check(path, found, OURS, 2048)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"mu": np.array([0, np.nan])}, r"mu has values that are not finite numbers"),
    ({"sigma": np.full((2, 2), np.inf)}, r"sigma has values that are not finite"),
    ({"sigma": np.array([["a"]])}, r"sigma has values that are not finite numbers"),
    ({"sigma": np.eye(3)}, r"mu is \[2\] and sigma \[3, 3\]; must be \[F\] and \[F, F\]"),
    ({"sigma": np.array([[1.0, 2], [0, 1]])}, r"sigma is no covariance: not symmetric"),
    ({"sigma": -np.eye(2)}, r"sigma is no covariance: .* negative"),
    ({"sigma": np.array([None, {}], object)}, r"cannot be read as \.npz"),
    ({"count": np.zeros(3)}, r"count is float64 \[3\], must be a whole number"),
    ({"count": np.array("many")}, r"count is str128 \[\], must be a whole number"),
])
def test_statistics_that_are_none_are_refused(tmp_path, arrays, message):
    path = saved(tmp_path / "x.npz", **{"mu": np.zeros(2), "sigma": np.eye(2), **arrays})
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message):
        statistics_files.read(path)


def test_other_files_are_no_statistics(tmp_path):
    with pytest.raises(UserError, match=r"has the arrays features; needs mu and sigma, or"):
        statistics_files.read(saved(tmp_path / "x.npz", features=np.zeros(3)))
    (tmp_path / "y.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"y\.npz cannot be read as \.npz"):
        statistics_files.read(tmp_path / "y.npz")
    with pytest.raises(UserError, match=r"make an \.npz of it with: python conversion/fid_stat"):
        statistics_files.read(tmp_path / "fid_stats.pth")
    with pytest.raises(UserError, match=r"none\.npz is missing"):
        statistics_files.read(tmp_path / "none.npz")
