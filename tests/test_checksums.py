"""A PyTorch file is a zip: damage shows in its checksums, and no record passes for another."""

import zipfile

import pytest
import torch

from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from tests.test_conversion import saved, small, state


def test_a_flipped_bit_is_refused_unless_nothing_reads_it(tmp_path):
    file = saved(tmp_path / "x.pt", {"model": state()})
    small(file, tmp_path / "whole")
    content, refused = file.read_bytes(), 0
    for place in range(11, len(content), len(content) // 60):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            small(file, tmp_path / f"{place}")
        except UserError as error:
            refused += 1
            assert "x.pt" in str(error) and "again" in str(error)
        else:
            found = model_folder.saved_digest(tmp_path / f"{place}")
            assert found == model_folder.saved_digest(tmp_path / "whole"), place
    assert refused > 40
    flipped = bytearray(content)
    flipped[content.index(state()["output.weight"].numpy().tobytes()) + 50] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(UserError, match=r"x\.pt: its record 'x/data/3' is damaged .Bad CRC-32 for"):
        small(file, tmp_path / "m")


def packed_again(file, compression=zipfile.ZIP_STORED, twice=()):
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in [*records.items(), *((name, records[name]) for name in twice)]:
            archive.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_pytorch_would_misread_is_refused(tmp_path):
    """It takes a compressed record's bytes for weights, and one of two records for the other."""
    file = saved(tmp_path / "x.pt", {"model": state()})
    packed_again(file)
    small(file, tmp_path / "m")
    packed_again(file, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"x\.pt: its record 'x/data\.pkl' is compressed"):
        small(file, tmp_path / "n")
    packed_again(file, twice=["x/data/0"])
    with pytest.raises(UserError, match=r"x\.pt: its record 'x/data/0' is there twice"):
        small(file, tmp_path / "n")
    file.write_bytes(2 * saved(file, {"model": state()}).read_bytes())
    with pytest.raises(UserError, match=r"x\.pt holds something before its zip"):
        small(file, tmp_path / "n")


def test_files_without_checksums_are_read(tmp_path):
    """From before the zip format, and saved by who wanted none."""
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        saved(tmp_path / "none.pt", state())
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old", "none"):
        small(tmp_path / f"{name}.pt", tmp_path / name)
    digests = {model_folder.saved_digest(tmp_path / name) for name in ("old", "none")}
    assert len(digests) == 1
