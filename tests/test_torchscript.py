"""TorchScript archives: the tensors that PyTorch finds in them, and nothing run on the way."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from conversion import torchscript
from conversion.read import read
from ddjax.runtime.errors import UserError


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.matrix = nn.Parameter(torch.randn(6, 2).half())
        self.register_buffer("count", torch.tensor(7))
        self.sizes, self.title, self.scale, self.pair = [1, 2], "x", 0.5, (1, 70000)

    def forward(self, x):
        return self.linear(x) * self.matrix.sum() * self.scale


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Inner(), Inner())
        self.strided = nn.Parameter(torch.randn(3, 4).T[1:, ::2])
        self.brain = nn.Parameter(torch.randn(5).bfloat16())
        self.tied = self.blocks[0].linear.weight

    def forward(self, x):
        return self.blocks[0](x) + self.strided.sum() * self.tied.sum() + self.brain.sum()


def saved(file, how="script"):
    torch.manual_seed(0)
    module = Outer()
    if how == "script":
        torch.jit.script(module).save(file)
    else:
        torch.jit.trace(module, torch.zeros(1, 2)).save(file)
    return file


@pytest.mark.parametrize("how", ["script", "trace"])
def test_tensors_are_those_of_the_state_dict(how, tmp_path):
    file = saved(tmp_path / "x.pt", how)
    found, wanted = read(file), torch.jit.load(file).state_dict()
    assert found.keys() == wanted.keys() and len(wanted) == 11
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def packed_again(file, changed, compression=zipfile.ZIP_STORED):
    """With other contents of some records."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in (records | changed).items():
            archive.writestr(name, content)
    return file


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_is_not_run(tmp_path, monkeypatch):
    """In the pickle, as an attribute, and in the code that PyTorch would compile."""
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path / "x.pt")
    for protocol in range(6):
        packed_again(file, {"x/data.pkl": pickle.dumps(Code(), protocol)})
        with pytest.raises(UserError, match=r"x\.pt is a damaged TorchScript archive \(.*; get it"):
            read(file)
    whole = read(saved(file))
    pickled = zipfile.ZipFile(file).read("x/data.pkl")
    system = b"cos\nsystem\nX\x0b\x00\x00\x00touch pwned\x85R"
    # A value in place of the first True, which is an attribute that PyTorch does not read.
    place = pickled.index(b"X\x08\x00\x00\x00training")
    place = pickled.index(b"\x88", place)
    packed_again(file, {
        "x/data.pkl": pickled[:place] + system + pickled[place + 1 :],
        "x/code/__torch__.py": b"import os; os.system('touch pwned')",
    })
    assert read(file).keys() == whole.keys()
    assert not Path("pwned").exists()


def test_a_flipped_bit_is_refused_unless_nothing_reads_it(tmp_path):
    file = saved(tmp_path / "x.pt")
    content, whole, refused = file.read_bytes(), read(file), 0
    with zipfile.ZipFile(file) as archive:
        end = max(i.header_offset for i in archive.infolist() if "/data" in i.filename)
    for place in range(5, end, end // 100):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = read(file)
        except UserError as error:
            refused += 1
            assert "x.pt" in str(error) and "again" in str(error) and "\n" not in str(error)
        else:
            assert all(torch.equal(found[name], whole[name]) for name in whole), place
    assert refused > 20


def pickled_module(attributes):
    """A module with these attributes: operations behind each name."""
    items = b"".join(
        b"X" + len(name).to_bytes(4, "little") + name.encode() + operations
        for name, operations in attributes.items()
    )
    return b"\x80\x02c__torch__\nM\n)\x81}(" + items + b"ub."


def tensor(key="0", count=3, offset=0, size=(3,), stride=(1,), kind="FloatStorage"):
    def numbers(values):
        return b"(" + b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + kind.encode()
        + b"\nX" + len(key).to_bytes(4, "little") + key.encode() + b"X\x03\x00\x00\x00cpu"
        + numbers([count])[1:-1] + b"tQ" + numbers([offset])[1:-1] + numbers(size) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


INNER = b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00t" + tensor() + b"ub"


HOSTILE = {
    "a record elsewhere": (pickled_module({"t": tensor(key="../../secret")}), "secret"),
    "fewer numbers": (pickled_module({"t": tensor(count=2)}), "data/0 is larger than 8 bytes"),
    "more numbers": (pickled_module({"t": tensor(count=2**30)}), r"\(.+\)"),
    "a larger size": (pickled_module({"t": tensor(size=(4,))}), "out of bounds"),
    "an offset": (pickled_module({"t": tensor(offset=1)}), "out of bounds"),
    "a negative offset": (pickled_module({"t": tensor(offset=-1)}), "invalid storage offset"),
    "a negative stride": (pickled_module({"t": tensor(stride=(-1,))}), "stride"),
    "no type": (pickled_module({"t": tensor(kind="system")}), "system"),
    "a module twice": (pickled_module({"a": INNER + b"q\x00", "b": b"h\x00"}), r"b\. is there twi"),
    "marks": (pickled_module({"a": b"(" * 5000}), r"\(.+\)"),
    "nothing remembered": (pickled_module({"a": b"h\x07"}), "7"),
    "OBJ": (pickled_module({"a": b"cos\nsystem\nX\x01\0\0\0xo"}), "operation OBJ"),
    "INST": (pickled_module({"a": b"(ios\nsystem\n"}), "operation INST"),
    "a text without end": (pickled_module({"a": b"X\0\0\0\x7f"}), r"\(.+\)"),
    "no module": (b"\x80\x02N.", r"\(.+\)"),
    "no end": (b"\x80\x02", r"\(.+\)"),
    "nothing": (b"", r"\(.+\)"),
    "too much": (bytes(2**22 + 1), r"record data\.pkl is larger than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name, tmp_path):
    pickled, message = HOSTILE[name]
    file = saved(tmp_path / "x.pt")
    packed_again(file, {"x/data.pkl": pickled_module({"t": tensor(), "m": INNER}),
                        "x/data/0": b"\0\0\x80\x3f" * 3})
    found = {name: tensor.tolist() for name, tensor in read(file).items()}
    assert found == {"t": [1.0] * 3, "m.t": [1.0] * 3}
    packed_again(file, {"x/data.pkl": pickled})
    with pytest.raises(UserError, match=rf"x\.pt is a damaged TorchScript archive .*{message}"):
        read(file)


def test_modules_in_modules_end(tmp_path):
    """Deeper than Python's stack, and a module within itself."""
    deep = (b"X\x01\x00\x00\x00a" + INNER[: INNER.index(b"X")]) * 3000 + b"ub" * 3000
    itself = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."
    for pickled in (b"\x80\x02c__torch__\nM\n)\x81}(" + deep + b"ub.", itself):
        file = packed_again(saved(tmp_path / "x.pt"), {"x/data.pkl": pickled})
        with pytest.raises(UserError, match=r"x\.pt is a damaged TorchScript archive"):
            read(file)


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path):
    """By the reader of all checkpoints: one number a billion times."""
    many = pickled_module({"t": tensor(size=(10**9,), stride=(0,))})
    file = packed_again(saved(tmp_path / "x.pt"), {"x/data.pkl": many, "x/data/0": bytes(12)})
    with pytest.raises(UserError, match="t is no plain tensor"):
        read(file)


def test_compressed_numbers_are_refused(tmp_path):
    file = packed_again(saved(tmp_path / "x.pt"), {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"data\.pkl is larger than \d+ bytes, or compressed"):
        read(file)
    assert torchscript.is_archive(file)
