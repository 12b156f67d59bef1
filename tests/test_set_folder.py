"""Sets in the making: stopped at any batch, or split over processes, they end the same."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from ddjax.evaluation import collecting, kept_images, moments, set_folder
from ddjax.evaluation.collecting import Dispatched, collect
from ddjax.evaluation.making import Keep
from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics import Observed
from ddjax.method.protocols import Features
from ddjax.runtime.errors import UserError

TOTAL, BATCH, WIDTH = 50, 8, 3
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(TOTAL, WIDTH)).astype("f4")
LOGITS = RNG.normal(size=(TOTAL, 4)).astype("f4")
IDS = RNG.integers(0, 9, size=(TOTAL, 6))
LEVELS = RNG.integers(0, 256, size=(TOTAL, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BLOCK", 16)
        yield


class Stop(BaseException):
    """As a signal does it."""


def make(folder, stop_at=None, rows=lambda index: index, save_every=2):
    """The set, or what is made of it before the batch at `stop_at` is dispatched."""
    dispatched = []

    def dispatch(first, timed):
        if stop_at is not None and first >= stop_at:
            raise Stop
        dispatched.append(first)
        return Dispatched(first, 0.5 if timed else None)

    def fetch(first, value):
        assert value == first
        index = rows(np.arange(first, min(first + BATCH, TOTAL)))
        return Observed(
            index, LEVELS[index], Features(FEATURES[index], FEATURES[index] ** 2, LOGITS[index]),
            ids_BL=IDS[index], exact_ids_BL=IDS[::-1][index],
        )

    collect(folder, "set", batch=BATCH, dispatch=dispatch, fetch=fetch, save_every=save_every)
    return dispatched


def folder_of(directory, kind=""):
    keep = Keep(lambda index: index % 3 == 0, ids=True, write=kept_images.writer(directory, kind))
    return SetFolder(directory, TOTAL, keep)


def arrays(folder):
    return folder.read().statistics.arrays()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("whole"))
    assert make(folder) == list(range(0, TOTAL, BATCH))
    return folder


def test_it_keeps_what_was_asked_for_in_order(whole):
    assert whole.finished
    np.testing.assert_array_equal(whole.rows("ids"), IDS)
    np.testing.assert_array_equal(whole.rows("features"), FEATURES[::3].astype(np.float16))
    np.testing.assert_array_equal(whole.rows("shown"), LEVELS[:40])
    found = whole.read().statistics
    exact = FEATURES.astype("f8")
    np.testing.assert_allclose(found.pooled.gaussian.cov_FF, np.cov(exact.T), rtol=1e-12)
    np.testing.assert_allclose(found.spatial.gaussian.mean_F, (exact**2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.means["tokens_equal"].value, (IDS[::-1] == IDS).mean(0))


def test_a_finished_set_is_not_made_again(whole):
    assert make(whole) == []


@pytest.mark.parametrize("stop_at", range(8, TOTAL, BATCH))
def test_stopped_at_any_batch_it_ends_the_same(tmp_path, whole, stop_at):
    """To the last bit; and what was saved is not made again."""
    folder = folder_of(tmp_path)
    with pytest.raises(Stop):
        make(folder, stop_at)
    assert not folder.finished
    again = make(folder)
    saved = max(0, (stop_at // BATCH - 1) // 2 * 2 * BATCH)
    assert again[0] in (saved, saved + 2 * BATCH)
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(array, arrays(folder)[name], err_msg=name)
    np.testing.assert_array_equal(folder.rows("ids"), IDS)


def test_a_part_without_its_state_does_not_count_twice(tmp_path, whole):
    """Killed between the two files of a save; then going on with saves at other batches."""
    folder = folder_of(tmp_path)
    with pytest.raises(Stop):
        make(folder, 5 * BATCH)
    (state,) = folder._own.glob("state_*.npz")
    done = int(state.stem.removeprefix("state_"))
    (folder._own / f"rows_{done + BATCH:010d}.npz").write_bytes(b"left by a killed process")
    make(folder, save_every=3)
    np.testing.assert_array_equal(folder.rows("ids"), IDS)
    np.testing.assert_array_equal(folder.rows("features"), whole.rows("features"))


def two_hosts(monkeypatch, directory, stop_at=(None, None), kind="", waits=(9, 9)):
    """Both processes of a run one after another, each with half of every batch.

    They are killed before a batch, or while they wait for the other in a save of this number.
    """
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = []
    for number in (0, 1):
        saves = []

        def barrier(purpose, number=number, saves=saves):
            saves.extend([purpose] * purpose.endswith(" saved"))
            if purpose.endswith(" saved") and len(saves) == waits[number]:
                raise Stop

        monkeypatch.setattr(set_folder.hosts, "barrier", barrier)
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        folder = folder_of(directory, kind)

        def mine(index, number=number):
            return index[index % BATCH // 4 == number]

        try:
            found.append(make(folder, stop_at[number], mine))
        except Stop:
            found.append(None)
    monkeypatch.undo()
    return found


def test_two_processes_are_merged(monkeypatch, tmp_path, whole):
    two_hosts(monkeypatch, tmp_path)
    folder = folder_of(tmp_path)
    assert folder.finished
    np.testing.assert_array_equal(folder.rows("ids"), IDS)
    for name, array in arrays(whole).items():
        if "waiting" not in name and "scatter" not in name and not name.startswith(("po", "sp")):
            np.testing.assert_allclose(arrays(folder)[name], array, rtol=1e-12, err_msg=name)
    wanted, found = (x.read().statistics.pooled.gaussian for x in (whole, folder))
    np.testing.assert_allclose(found.cov_FF, wanted.cov_FF, rtol=1e-12)
    assert make(folder) == []  # whoever made it, it is finished


def test_processes_go_on_from_a_save_that_all_have(monkeypatch, tmp_path, whole):
    """The first is killed in its second save, while it waits for the second, which has not it."""
    two_hosts(monkeypatch, tmp_path, stop_at=(6 * BATCH, 3 * BATCH), waits=(2, 9))
    saves = [sorted(path.glob("state_*")) for path in sorted(tmp_path.glob("host_*_of_2"))]
    assert list(map(len, saves)) == [2, 1]
    assert not folder_of(tmp_path).finished
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(set_folder.hosts, "barrier", lambda purpose: None)
    for number in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        making = folder_of(tmp_path).resume()
        assert making.done == 2 * BATCH and making.statistics.count == BATCH


def test_damage_is_named(tmp_path):
    folder = folder_of(tmp_path)
    make(folder)
    path = next(folder._own.glob("state_*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} is damaged") + ".*aside and start"):
        folder.read()


def test_only_idle_devices_are_timed(tmp_path):
    """The first ten batches behind the one that compiles; each alone, then they overlap."""
    folder, order = SetFolder(tmp_path, 40 * 2, Keep(lambda index: index < 0)), []

    def dispatch(first, timed):
        order.append(("dispatch", first // 2, timed))
        return Dispatched(first, 2.0 if first else 100.0) if timed else Dispatched(first)

    def fetch(first, value):
        order.append(("fetch", first // 2))
        index = np.arange(first, first + 2)
        return Observed(index, np.zeros((2, 1, 1, 1), np.uint8), Features(np.ones((2, 1), "f4")))

    collect(folder, "set", batch=2, dispatch=dispatch, fetch=fetch, save_every=100)
    made = folder.read()
    assert made.seconds == [1.0] * collecting.TIMED and made.compiling == [50.0]
    assert made.seconds_per_image == 1.0
    at = {event: i for i, event in enumerate(order)}
    for batch in range(1, 40):
        timed = batch <= collecting.TIMED
        assert at["dispatch", batch, timed]
        before = at["fetch", batch - 1] < at["dispatch", batch, timed]
        assert before == timed, batch


@pytest.mark.parametrize("processes", [1, 2])
def test_kept_as_npz(monkeypatch, tmp_path, processes):
    if processes == 2:
        two_hosts(monkeypatch, tmp_path, (5 * BATCH, 5 * BATCH), "npz")
        two_hosts(monkeypatch, tmp_path, kind="npz")
    else:
        with pytest.raises(Stop):
            make(folder_of(tmp_path, "npz"), 5 * BATCH)
        make(folder_of(tmp_path, "npz"))
    kept_images.finish(folder_of(tmp_path, "npz"), "npz")
    with np.load(tmp_path / "samples.npz") as found:
        assert found.files == ["arr_0"]
        np.testing.assert_array_equal(found["arr_0"], LEVELS)
    assert not list(tmp_path.glob("*.bytes"))
    kept_images.finish(folder_of(tmp_path, "npz"), "npz")  # it is there already


def test_kept_as_png(tmp_path):
    make(folder_of(tmp_path, "png"))
    files = sorted((tmp_path / "samples").glob("*.png"))
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(TOTAL)]
    for path, levels in zip(files, LEVELS, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), levels)
