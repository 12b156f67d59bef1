"""The PyTorch modules that the benchmark compares with compute what ours do."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ddjax.benchmark import programs, published, timing
from ddjax.benchmark.against_torch import comparison, sampling
from ddjax.method import keys, trajectory
from ddjax.method.guidance import Guidance, Guided, truncate
from tests.commands import run


@pytest.fixture(scope="module", params=["llamagen:tiny", "var:tiny"])
def both(request):
    """Models of both sides. Fresh blocks of VAR pass their input on; these do not."""
    config = published.read(request.param)
    rng = np.random.default_rng(0)
    models = jax.tree.map(
        lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype),
        programs.load(config)[0],
    )
    return comparison.Modules(config, models)


@pytest.mark.slow
def test_the_same_weights_give_the_same_numbers(both):
    """Of the student's pass and of the decoder."""
    rows = {row.name: row for row in both.rows(2, compiled=False)}
    assert set(rows) == {"teacher", "student pass", "decode"}
    for name in ("student pass", "decode"):
        found = [jax.tree.leaves(rows[name].calls[who]()) for who in ("ddjax", "PyTorch")]
        assert [x.shape for x in found[0]] == [tuple(x.shape) for x in found[1]]
        assert comparison.difference(rows[name]) < 2e-5


def test_the_teachers_draw_the_same_tokens_where_one_choice_is_left(both):
    guidance = dataclasses.replace(both.config.guidance, top_k=1, top_p=1.0)
    labels = np.array([3, 7])

    @jax.jit
    def ours(teacher, labels):
        keys_B = keys.per_image(jax.random.key(0), jnp.arange(2))
        return trajectory.sample_ids(
            Guided(teacher, guidance), labels, keys_B, trajectory.no_prefix(2)
        )

    found = both.teacher.generate(torch.from_numpy(labels), guidance)
    np.testing.assert_array_equal(found, ours(both.ours.teacher, jnp.asarray(labels)))
    assert len(np.unique(found)) > 8


@pytest.mark.parametrize("guidance", [
    Guidance(top_k=5), Guidance(top_p=0.7), Guidance(temperature=0.5, top_k=12, top_p=0.8),
])
def test_draws_have_the_frequencies_of_our_truncation(guidance):
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 1, 20)).astype(np.float32))
    torch.manual_seed(0)
    ids = sampling.draw(logits.expand(1, 20_000, 20), guidance)
    p = np.exp(truncate(jnp.asarray(logits)[0, 0], guidance))
    frequencies = np.bincount(ids.flatten(), minlength=20) / ids.numel()
    np.testing.assert_allclose(frequencies, p, atol=0.015)  # 4 standard errors
    assert not frequencies[p == 0].any()


def test_times_are_taken_in_turns():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = timing.interleaved(calls, repeats=2)
    assert order == list("ababab")
    assert times["a"]["least"] <= times["a"]["seconds"] <= times["a"]["largest"]


@pytest.mark.slow
def test_the_command_prints_both_columns(tmp_path):
    output = tmp_path / "found.json"
    flags = ("--against=torch", "--batch=2", "--repeats=1", f"--output={output}")
    code, printed = run(None, *flags, module="benchmark", config="configs/var.py:tiny")
    assert code == 0, printed
    assert "| model | what | batch | ddjax, s | PyTorch, s |" in printed
    (result,) = json.loads(output.read_text())["results"]
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["student pass"]["largest_difference"] < 2e-5
    assert all(row["by"]["PyTorch"]["seconds"] > 0 for row in rows.values())
    code, printed = run(None, *flags, module="benchmark", config="configs/var.py:tiny")
    assert code == 1 and "exists already" in printed
    code, printed = run(
        None, "--against=torch", module="benchmark", config="configs/llamagen_t2i.py:tiny"
    )
    assert code == 1 and "it compares LlamaGen and VAR of classes" in printed
    code, printed = run(
        None, "--against=torch", "--only=features", module="benchmark", config="configs/var.py:tiny"
    )
    assert code == 1 and "--only=features is no row; known are teacher, student pass" in printed


@pytest.mark.slow
def test_features_are_compared():
    (row,) = comparison.measure_features([1], repeats=1, compiled=False)["rows"]
    assert row["largest_difference"] < 1e-4 and set(row["by"]) == {
        "ddjax", "PyTorch", "channels_last"
    }
