"""Statistics for FID from PyTorch's files: tensors or arrays, and no code."""

import pickle

import numpy as np
import pytest
import torch

from tests.commands import call

MU, SIGMA = np.arange(3.0), np.diag([1.0, 2.0, 3.0])


def convert(path):
    return call("conversion/fid_statistics.py", f"--checkpoint={path}",
                f"--output={path.with_suffix('.npz')}")


class Code:
    def __reduce__(self):
        return print, ("run!",)


@pytest.mark.slow
def test_tensors_and_arrays_and_nothing_else(tmp_path):
    for i, tree in enumerate((
        {"m": torch.tensor(MU, dtype=torch.float32), "s": torch.tensor(SIGMA)},
        {"mu": MU, "sigma": SIGMA.astype(np.float32)},
    )):
        path = tmp_path / f"{i}.pth"
        torch.save(tree, path)
        code, output = convert(path)
        assert code == 0 and "statistics of 3 features" in output, output
        with np.load(path.with_suffix(".npz")) as found:
            np.testing.assert_array_equal(found["mu"], MU)
            np.testing.assert_array_equal(found["sigma"], SIGMA)
        code, output = convert(path)
        assert code == 1 and "exists already; name another" in output
    for name, tree, message in (
        ("a", {"x": MU}, "a.pth has x; needs m and s"),
        ("b", {"m": MU, "s": Code()}, "holds code"),
        ("c", {"m": MU, "s": np.full((3, 3), np.nan)}, "sigma has values that are not finite"),
        ("d", {"m": MU, "s": np.array([Code()], object)}, "d.pth"),
        ("f", {"m": MU, "s": "none"}, "f.pth: m and s must be arrays of numbers"),
    ):
        torch.save(tree, tmp_path / f"{name}.pth")
        code, output = convert(tmp_path / f"{name}.pth")
        assert code == 1 and message in output and "run!" not in output, output
        assert "Traceback" not in output and not (tmp_path / f"{name}.npz").exists()
    (tmp_path / "e.pth").write_bytes(pickle.dumps({"m": MU, "s": Code()}))
    code, output = convert(tmp_path / "e.pth")
    assert code == 1 and "run!" not in output
