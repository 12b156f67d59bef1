"""The plan's figures against formulas and published sizes; what does not fit is told."""

import dataclasses
import functools
import importlib

import jax
import numpy as np
import pytest
from absl import flags

from configs import llamagen_t2i
from ddjax.config.reading import from_dict
from ddjax.plan import __main__ as command
from ddjax.plan import captions, compiled, fitting, memory, report, stages
from ddjax.runtime import sharding
from ddjax.runtime.devices import DEVICES
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features
from ddjax.storage import model_folder
from ddjax.training import loop
from tests import tiny


def tiny_config(**mesh):
    tree = tiny.get_config().to_dict()
    tree["distill"]["perceptual"], tree["student"]["split"] = 0.0, 16
    return from_dict({**tree, "mesh": mesh})


@pytest.mark.parametrize(
    ("file", "size", "counts"),
    [
        ("llamagen", "L", {"teacher": 343, "student": 326, "tokenizer": 71.9,
                           "perceptual net": 14.7}),
        ("var", "d16", {"teacher": 310, "student": 327, "perceptual net": 14.7}),
    ],
)
def test_parameters_are_the_published_ones(file, size, counts):
    """Of the paper's table, in millions."""
    config = from_dict(importlib.import_module(f"configs.{file}").get_config(size).to_dict())
    nets = stages.models(config)
    for name, millions in counts.items():
        assert stages.parameters(nets[name]) / 1e6 == pytest.approx(millions, rel=0.005), name


def test_memory_of_the_tiny_job():
    config = tiny_config(fsdp=2)
    nets = stages.models(config)
    training, whole = (
        stages.distill_stage(c, nets, 4) for c in (config, tiny_config(fsdp=1))
    )
    student = 4 * stages.parameters(nets["student"])
    for name in ("student", "its average", "gradients"):
        assert training.bytes[f"{name} / 2"] == student / 2
    adam = training.bytes["optimizer state / 2"]
    assert student <= adam < student + 64  # two moments, and a few counters
    assert whole.bytes["optimizer state / 1"] == 2 * adam
    rest = [name for name in training.bytes if "/" not in name]
    assert [training.bytes[name] for name in rest] == [whole.bytes[name] for name in rest]
    assert training.bytes["activations at their peak"] > 0


def test_score_distillation_keeps_student_fake_model_and_two_optimizers():
    tree = tiny.get_config().to_dict()
    train = {"steps": 10, "batch": 8, "learning_rate": 1e-3, "warmup": 2}
    tree["distill"] |= {"method": "score", "score": {"train": train, "fake": {**train, "steps": 7}}}
    tree["student"]["split"] = 16
    config, again = (
        from_dict({**tree, "mesh": {"fsdp": 2}, "distill": {**tree["distill"], "score": {
            **tree["distill"]["score"], "fake_updates": updates}}})
        for updates in (1, 4)
    )
    nets = stages.models(config)
    student, teacher = (4 * stages.parameters(nets[name]) for name in ("student", "teacher"))
    fake, score = stages.training_stages(config, nets, 4)
    assert score.bytes["what is trained / 2"] == (student + teacher) / 2
    assert score.bytes["its average / 2"] == student / 2
    moments = student + teacher  # two each, cut in two
    assert moments <= score.bytes["optimizer state / 2"] < moments + 64
    assert score.bytes["gradients / 2"] == max(student, teacher) / 2  # one after the other
    assert score.bytes["teacher and codebook"] == teacher + 4 * 16 * 4
    assert fake.bytes["what is trained / 2"] == teacher / 2 and fake.bytes["student"] == student
    more = stages.training_stages(again, nets, 4)[1]
    assert more.operations - score.operations == pytest.approx(3 * fake.operations)
    assert more.bytes == score.bytes
    assert (fake.calls, score.calls) == (7, 10)
    assert "perceptual net" not in nets
    with pytest.raises(UserError, match=r"distill\.score\.fake: train\.batch 8 cannot be shared"):
        report.report(config, 16, "v4", 0.3)


@pytest.mark.slow
def test_captions_cost_their_encoder_or_a_cache(tmp_path):
    tree = llamagen_t2i.get_config("tiny").to_dict()
    kept = {**tree, "text": {**tree["text"], "cache": str(tmp_path)}}
    nets = stages.models(from_dict(tree))
    for make in (stages.pairs_stage, stages.distill_stage):
        computed, read = (make(from_dict(one), nets, 1) for one in (tree, kept))
        encoder = model_folder.template("t5", from_dict(tree).text.model)
        assert computed.bytes["text encoder"] == 4 * stages.parameters(encoder)
        assert "text encoder" not in read.bytes and not list(tmp_path.iterdir())
        batch, tokens, layers = computed.batch, 16, 2
        weights = 4 * 48 * 64 + 3 * 48 * 96  # q, k, v, o; two in, one out
        wanted = 2 * batch * tokens * layers * (weights + 2 * tokens * 64)  # and keys, values
        assert computed.operations - read.operations == pytest.approx(wanted)
    line = captions.cache_size(from_dict(kept), 1)
    cached = caption_features.conditions(from_dict(kept))
    tokens = cached.take(np.arange(20))["mask"].sum()
    assert f"20 captions x {tokens / 20:.1f} tokens (mean of 20) x 48 x 2 bytes = " \
        f"{tokens * 48 * 2 / 1e9:.3f} GB" in line
    tree["data"]["captions"] = "nowhere.txt"
    stages.pairs_stage(from_dict(tree), nets, 1)  # needs no captions
    assert "not known (config.data.captions: nowhere.txt: No such file" in captions.cache_size(
        from_dict(tree), 1
    )


def test_decoding_keeps_keys_and_values_for_both_halves_of_guidance():
    config = tiny_config()
    stage = stages.pairs_stage(config, stages.models(config), 2)
    layers, batch, width, length, vocab = 2, 8, 16, 16, 16
    keys_values = 2 * layers * (2 * batch) * width * length * 4
    # Beside them the cache has a byte for each image: which tokens of the condition count.
    assert stage.of_them["keys and values"] == keys_values + 2 * batch
    assert stage.of_them["log-probabilities of a group"] == batch * vocab * 4
    assert stage.bytes["intermediate values at their peak"] > sum(stage.of_them.values())
    assert stage.calls == 2 + 2 + 1  # shards of 20, 20 and 8 pairs in 2 batches of 8 at once


def test_hours_follow_the_slower_of_operations_and_memory():
    device = DEVICES["v5p"]
    stage = stages.StagePlan("pairs", 8, 3600, 2 * device.peak, device.bandwidth, {})
    assert stage.bound(device) == (2.0, "operations")
    slower = dataclasses.replace(stage, name="distill", traffic=3 * device.bandwidth)
    assert slower.bound(device) == (3.0, "memory traffic")
    rows = report.time_table([stage, slower], 4, device, 0.5).splitlines()
    hours = [float(row.split("|")[-2].strip()) for row in rows[2:]]
    assert hours == [4.0, 6.0, 10.0]
    assert float(rows[2].split("|")[2]) == pytest.approx(4 * 2 * device.peak / 8 / 1e12, rel=1e-2)


def test_what_does_not_fit_is_told():
    def warned(name, known, estimated):
        stage = stages.StagePlan(name, 8, 1, 0, 0, {"known": known, "estimated": estimated})
        return report.warnings([stage], DEVICES["v5e"])

    assert warned("pairs", 10e9, 2e9) == []
    (line,) = warned("pairs", 10e9, 3e9)
    assert line.startswith("WARNING: pairs may not fit: 13.0 GB, of which 3.0 are an estimate")
    assert "config.pairs.batch" in line
    (line,) = warned("distill", 14e9, 0.5e9)
    assert line.startswith("WARNING: distill will not fit: 14.5 GB") and "14.4 of 16 GB" in line
    assert "config.distill.train.accumulate" in line and "config.mesh.fsdp" in line


def test_what_fits_is_the_most_at_once():
    """Memory that fits just what is asked for; twice the estimate has to."""
    config = tiny_config(fsdp=1)
    nets = stages.models(config)

    def of(batch, parts):
        tree = tiny.get_config().to_dict()
        tree["distill"]["perceptual"], tree["student"]["split"] = 0.0, 16
        tree["pairs"]["batch"], tree["distill"]["train"]["accumulate"] = batch, parts
        return from_dict(tree)

    def needed(stage):
        return (stage.total + stage.estimated) / stages.USABLE

    def found(given, memory):
        device = dataclasses.replace(DEVICES["L4"], memory=memory)
        return fitting.settings(given, nets, stages.all_stages(given, nets, 2), 2, device)

    assert found(config, 1e12) == {}
    assert found(of(config.pairs.batch, 2), 1e12) == {"distill.train.accumulate": 1}
    halved = needed(stages.distill_stage(of(config.pairs.batch, 2), nets, 2))
    assert found(config, halved) == {"distill.train.accumulate": 2}
    assert found(config, halved - 1) == {"distill.train.accumulate": 4}
    nothing = found(config, 1)
    assert nothing == {"pairs.batch": None, "distill.train.accumulate": None}
    lines = fitting.advice({"pairs.batch": 4, "distill.train.accumulate": None}, DEVICES["L4"])
    assert lines[0].endswith("twice the estimates: --config.pairs.batch=4")
    assert "No config.distill.train.accumulate is enough for 24 GB" in lines[1]


@pytest.mark.parametrize(
    ("fsdp", "devices", "message"),
    [
        (3, 8, r"config\.mesh\.fsdp: got 3, which does not divide 8 devices; data x fsdp may be "
               r"8 x 1, 4 x 2, 2 x 4, 1 x 8$"),
        (1, 16, r"distill: train\.batch 8 cannot be shared by 16 devices; make it a multiple of "
                r"16, such as 16$"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(fsdp, devices, message):
    with pytest.raises(UserError, match=message):
        report.report(tiny_config(fsdp=fsdp), devices, "v4", 0.3)


def test_the_command_plans_what_no_machine_holds(capsys):
    tree = tiny.get_config().to_dict()
    tree["teacher"]["model"]["width"] = 2**20
    config = from_dict({**tree, "mesh": {"fsdp": 2}})
    flags.FLAGS(["plan", "--devices=8", "--device=A100-40", "--utilisation=0.25"])
    command.main(config)
    printed = capsys.readouterr().out
    first = printed.splitlines()[0]
    assert first.startswith("tiny on 8 x A100-40 (40 GB, 312 TFLOP/s, 1555 GB/s each), data 4 x")
    assert first.endswith("fsdp 2, utilisation 25%")
    assert "WARNING: pairs will" in printed and "WARNING: distill will" in printed
    for share in (float("nan"), 0.0, 1.5):
        with pytest.raises(UserError, match=rf"--utilisation: got {share}, must be above 0"):
            report.report(config, 8, "A100-40", share)


@pytest.mark.slow
def test_the_compiler_counts_the_share_of_what_is_trained():
    """Arguments of a step: cut by fsdp what is trained, whole what is frozen."""
    found = {}
    for fsdp in (1, 4):
        config = tiny_config(fsdp=fsdp)
        nets = stages.models(config)
        with jax.set_mesh(sharding.make_mesh(fsdp)):
            found[fsdp] = compiled.training_step(config, nets)
            state = jax.eval_shape(
                functools.partial(loop.first_state, config=config.distill.train), nets["student"]
            )
            state = sharding.shard(state, nets["student"].layout)
    cut = sum(memory.size(leaf) for leaf in jax.tree.leaves(state)
              if not leaf.sharding.is_fully_replicated)
    assert cut > memory.size(nets["student"])
    assert found[1].arguments - found[4].arguments == cut * 3 / 4
    assert found[4].intermediate > 0


@pytest.mark.slow
def test_the_compiler_counts_the_share_of_both_that_score_distillation_trains():
    """Of the fake model and its optimizer too."""
    tree, found = tiny.get_config().to_dict(), {}
    train = {"steps": 10, "batch": 8, "learning_rate": 1e-3, "warmup": 2}
    tree["distill"] |= {"method": "score", "score": {"train": train, "fake": train}}
    tree["student"]["split"] = 16
    for fsdp in (1, 4):
        config = from_dict({**tree, "mesh": {"fsdp": fsdp}})
        nets = stages.models(config)
        with jax.set_mesh(sharding.make_mesh(fsdp)):
            found[fsdp] = compiled.score_step(config, nets).arguments
    sizes = {}
    with jax.set_mesh(sharding.make_mesh(4)):
        for name, copies in (("student", 4), ("teacher", 3)):  # moments, and an average of one
            cut = jax.tree.leaves(sharding.shard(nets[name], nets[name].layout))
            sizes[name] = copies * sum(
                memory.size(leaf) for leaf in cut if not leaf.sharding.is_fully_replicated
            )
    assert found[1] - found[4] == (sizes["student"] + sizes["teacher"]) * 3 / 4


@pytest.mark.slow
def test_the_compiled_table_has_both_programs(monkeypatch):
    monkeypatch.setattr(compiled, "simulate", lambda devices: None)  # tests have them already
    rows = report.compiled_table(tiny_config(fsdp=2), 8).splitlines()
    assert rows[0].startswith("| compiled for 8 simulated CPU devices |")
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["pairs", "distill"]
