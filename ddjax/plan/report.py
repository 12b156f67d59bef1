"""Cost estimate of a job: memory, operations and hours, before it is started.

    python -m ddjax.plan --config=configs/llamagen.py:L --devices=64 --device=v5p \
        --config.mesh.fsdp=8

All of it follows from the config: programs are traced with shapes and types in place of arrays, no
weights are read and nothing is allocated. The output says how each figure is estimated.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.config.schema import MAP, SCORE, Config, TrainSection
from ddjax.method.guidance import Guided
from ddjax.plan import captions, compiled, memory
from ddjax.runtime import flops, sharding
from ddjax.runtime.devices import DEVICES, Device
from ddjax.runtime.errors import UserError
from ddjax.stages import distill_map, distill_score, pair_generation
from ddjax.storage import model_folder
from ddjax.training import descent, following, loop
from ddjax.training.following import Beside, Followed

# Usable share of a device's memory: the runtime and fragmentation take the rest.
USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage as a device sees it.

    Attributes:
      name: of the stage.
      batch: of the config, over all devices.
      calls: of its compiled function, one after another.
      operations: of one call, on one device.
      traffic: of one call on one device, in bytes.
      bytes: of memory on one device, by what they are; the last is an estimate.
      of_them: what some of the last of these are.
    """

    name: str
    batch: int
    calls: int
    operations: float
    traffic: float
    bytes: dict[str, float]
    of_them: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> float:
        """Bytes of memory on one device."""
        return sum(self.bytes.values())

    @property
    def estimated(self) -> float:
        """Of these, the bytes that the compiler decides on."""
        return list(self.bytes.values())[-1]

    def bound(self, device: Device) -> tuple[float, str]:
        """The least seconds of a call by the data sheet, and what sets them."""
        return max(
            (self.operations / device.peak, "operations"),
            (self.traffic / device.bandwidth, "memory traffic"),
        )

    def hours(self, device: Device, utilisation: float) -> float:
        """Of all calls, at this share of the data sheet's rates."""
        return self.calls * self.bound(device)[0] / utilisation / 3600


def models(config: Config) -> dict[str, nnx.Module]:
    """The models of the config as shapes and types."""
    parts = {"teacher": config.teacher, "student": config.student_model,
             "tokenizer": config.tokenizer}
    if config.distill.perceptual and MAP in config.distill.method:
        parts["perceptual net"] = config.distill.perceptual_net
    return {name: model_folder.template(part.kind, part.model) for name, part in parts.items()}


def parameters(model: nnx.Module) -> int:
    """How many numbers a model holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def pairs_stage(config: Config, nets: dict[str, nnx.Module], devices: int) -> StagePlan:
    """Pair generation; every device has the whole teacher."""
    teacher, batch = nets["teacher"], config.pairs.batch
    codes_VC = jax.eval_shape(lambda tokenizer: tokenizer.codebook, nets["tokenizer"])

    def make(
        teacher: nnx.Module, codes_VC: jax.Array, index_B: jax.Array, condition: Any
    ) -> jax.Array:
        code_dim = codes_VC.shape[1]
        eps = pair_generation.noise_of(config.seed, index_B, config.groups.length, code_dim)
        return pair_generation.map_batch(
            teacher, codes_VC, eps, condition, guidance=config.guidance, solver=config.flow
        )

    condition, encoding = captions.shapes(config, batch), captions.encoding(config, batch)
    jaxpr = jax.make_jaxpr(make)(teacher, codes_VC, _int32(batch), condition).jaxpr
    return StagePlan(
        "pairs", batch * devices, _calls(config, devices),
        flops.operations(jaxpr) + encoding.operations, flops.traffic(jaxpr) + encoding.traffic,
        {"teacher": memory.size(teacher), "codebook": memory.size(codes_VC),
         **_encoder(encoding),
         "intermediate values at their peak": max(memory.peak(jaxpr), encoding.peak)},
        _decoding(config, teacher, batch),
    )


def _calls(config: Config, devices: int) -> int:
    """Batches of all shards on one process; a shard's last one may be filled in part."""
    c = config.pairs
    shards = [c.per_shard] * (c.count // c.per_shard) + [c.count % c.per_shard]
    return sum(-(-shard // (c.batch * devices)) for shard in shards)


def _decoding(config: Config, teacher: nnx.Module, batch: int) -> dict[str, float]:
    """Bytes that the teacher keeps while it decodes, when only the last group is missing."""

    def prefill(batch: int) -> Any:
        ids_BP = _int32(batch, int(config.groups.starts[-2]))
        return jax.eval_shape(
            lambda teacher, *args: Guided(teacher, config.guidance).prefill(*args),
            teacher, captions.shapes(config, batch), ids_BP,
        )

    log_p, cache = prefill(batch)
    # What grows with the batch is keys and values; the rest of a cache is weights.
    keys_values = memory.size(prefill(2 * batch)[1]) - memory.size(cache)
    return {
        "keys and values": keys_values,
        "weights in the type of the computation": memory.size(cache) - keys_values,
        "log-probabilities of a group": memory.size(log_p),
    }


def distill_stage(config: Config, nets: dict[str, nnx.Module], devices: int) -> StagePlan:
    """Training of the student; what is trained is sharded over `mesh.fsdp`, the rest not."""
    section, student, fsdp = config.distill, nets["student"], config.mesh.fsdp
    frozen = distill_map.Frozen(nets["tokenizer"], nets.get("perceptual net"))
    parts = section.train.accumulate
    batch = section.train.batch // parts // devices
    rows = {"index": _int32(batch), "ids": _int32(batch, config.groups.length),
            "condition": captions.shapes(config, batch)}
    encoding = captions.encoding(config, batch)
    loss = distill_map.loss_of(config, noise_seed=config.seed)
    grad = jax.value_and_grad(loss, has_aux=True)
    key = jax.eval_shape(jax.random.key, 0)
    jaxpr = jax.make_jaxpr(grad)(student, frozen, rows, key).jaxpr
    optimizer = jax.eval_shape(descent.optimizer(section.train, student.layout).init, student)
    return StagePlan(
        "distill", section.train.batch, section.train.steps,
        parts * (flops.operations(jaxpr) + encoding.operations),
        parts * (flops.traffic(jaxpr) + encoding.traffic),
        {f"student / {fsdp}": memory.size(student) / fsdp,
         f"its average / {fsdp}": memory.size(student) / fsdp,
         f"optimizer state / {fsdp}": memory.size(optimizer) / fsdp,
         f"gradients / {fsdp}": memory.size(student) / fsdp,
         "teacher, which it starts from": memory.size(nets["teacher"]),
         "tokenizer and perceptual net": memory.size(frozen),
         **_encoder(encoding),
         "activations at their peak": max(memory.peak(jaxpr), encoding.peak)},
    )


def score_stages(config: Config, nets: dict[str, nnx.Module], devices: int) -> list[StagePlan]:
    """Training of the fake model alone, then of student and fake model, a step after the other."""
    section, fsdp = config.distill.score, config.mesh.fsdp
    student, teacher = nets["student"], nets["teacher"]
    frozen = distill_score.Frozen(
        jax.eval_shape(lambda tokenizer: tokenizer.codebook, nets["tokenizer"]), teacher
    )
    follow = distill_score.following_of(config)
    follows = (follow.loss, teacher, student, follow.updates)
    leads = (distill_score.loss_of(config), student, teacher, 1)

    def plan(name: str, train: TrainSection, trained: Any, kept: Any, turns: list) -> StagePlan:
        batch = train.batch // train.accumulate // devices
        encoding = captions.encoding(config, batch)
        rows, key = {"condition": captions.shapes(config, batch)}, jax.eval_shape(jax.random.key, 0)
        programs = [
            (jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(
                model, Beside(other, frozen), rows, key).jaxpr, times)
            for loss, model, other, times in turns
        ]

        def total(count: Callable) -> float:
            return train.accumulate * sum(times * count(jaxpr) for jaxpr, times in programs)

        optimizers = jax.eval_shape(functools.partial(following.first, config=train), trained)
        return StagePlan(
            name, train.batch, train.steps,
            total(flops.operations) + train.accumulate * encoding.operations,
            total(flops.traffic) + train.accumulate * encoding.traffic,
            {f"what is trained / {fsdp}": memory.size(trained) / fsdp,
             f"its average / {fsdp}": memory.size(kept) / fsdp,
             f"optimizer state / {fsdp}": memory.size(optimizers) / fsdp,
             f"gradients / {fsdp}": max(memory.size(turn[1]) for turn in turns) / fsdp,
             "teacher and codebook": memory.size(frozen),
             **({"student": memory.size(student)} if trained is teacher else {}),
             **_encoder(encoding),
             "activations at their peak": max(
                 encoding.peak, *(memory.peak(jaxpr) for jaxpr, _ in programs))},
        )

    return [
        plan("fake model", section.fake, teacher, teacher, [(*follows[:3], 1)]),
        plan("score", section.train, Followed(student, teacher), student, [follows, leads]),
    ]


def training_stages(
    config: Config, nets: dict[str, nnx.Module], devices: int
) -> list[StagePlan]:
    """Trainings of the student by the methods of the config."""
    methods = config.distill.method
    return [
        *([distill_stage(config, nets, devices)] if MAP in methods else []),
        *(score_stages(config, nets, devices) if SCORE in methods else []),
    ]


def _encoder(encoding: captions.Encoding) -> dict[str, float]:
    return {"text encoder": encoding.weights} if encoding.weights else {}


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def warnings(stages: list[StagePlan], device: Device) -> list[str]:
    """A line for each stage that does not fit, or might not if its estimate doubles."""
    usable = USABLE * device.memory
    less = {"pairs": "lower config.pairs.batch",
            "distill": "raise config.distill.train.accumulate",
            "fake model": "raise config.distill.score.fake.accumulate",
            "score": "raise config.distill.score.train.accumulate"}
    return [
        f"WARNING: {stage.name} {'will' if stage.total > usable else 'may'} not fit: "
        f"{stage.total / 1e9:.1f} GB, of which {stage.estimated / 1e9:.1f} are an estimate, where "
        f"{usable / 1e9:.1f} of {device.memory / 1e9:.0f} GB can be used; "
        f"{less[stage.name]}, or take more devices or a higher config.mesh.fsdp"
        for stage in stages if stage.total + stage.estimated > usable
    ]


def memory_table(stage: StagePlan, devices: int) -> str:
    """What a stage keeps in the memory of one device, as Markdown."""
    rows = [*stage.bytes.items(), *((f"- of them {k}", v) for k, v in stage.of_them.items()),
            ("**together**", stage.total)]
    return "\n".join([
        f"| {stage.name}, batch {stage.batch}, {stage.batch // devices} a device | GB a device |",
        "| --- | ---: |",
        *(f"| {name} | {size / 1e9:.3f} |" for name, size in rows),
    ])


def time_table(stages: list[StagePlan], devices: int, device: Device, utilisation: float) -> str:
    """Work and hours, as Markdown.

    Args:
      stages: of the job.
      devices: how many.
      device: of which kind.
      utilisation: share of the data sheet's rates that is reached.
    """
    lines = [
        "| stage | TFLOP an example | calls | TFLOP a call | bound by | ms a call | hours |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    total = 0.0
    for stage in stages:
        seconds, what = stage.bound(device)
        seconds, work = seconds / utilisation, stage.operations * devices / 1e12
        hours = stage.hours(device, utilisation)
        total += hours
        lines.append(
            f"| {stage.name} | {work / stage.batch:.3g} | {stage.calls} | {work:.4g} | {what} | "
            f"{1e3 * seconds:.4g} | {hours:.1f} |"
        )
    return "\n".join([*lines, f"| **together** | | | | | | {total:.1f} |"])


def compiled_table(config: Config, devices: int) -> str:
    """What XLA's compiler for CPUs takes for the same programs, as Markdown."""
    nets = models(config)
    compiled.simulate(devices)
    steps, methods = {}, config.distill.method
    if MAP in methods:
        with jax.set_mesh(sharding.one_device()):
            steps["pairs"] = compiled.pairs(config, nets)
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        if MAP in methods:
            steps["distill"] = compiled.training_step(config, nets)
        if SCORE in methods:
            steps["score"] = compiled.score_step(config, nets)
    return "\n".join([
        f"| compiled for {devices} simulated CPU devices | arguments, GB a device | intermediate |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {found.arguments / 1e9:.3f} | {found.intermediate / 1e9:.3f} |"
          for name, found in steps.items()),
    ])


NOTES = """\
How this is estimated
- Activations and intermediate values: the most bytes alive at once when the traced program runs in
  its order, with element-wise work fused into what reads it. A compiler may take more: XLA's for
  TPU v5e took 1.3 times as much for training LlamaGen-L without the perceptual loss, batch 4, and
  2.6 times as much for its pairs; XLA's for CPUs 2.2 times with the perceptual loss in small.
  --compile says what that one takes for the job at hand.
- What is trained is taken to divide evenly by mesh.fsdp; weights gathered for a block, and the
  buffers of communication between devices, are not counted.
- Calls of pairs are those of one process. Of several each makes whole shards with its own devices,
  and some wait where the shards do not come out even.
- Time: matrix products and convolutions alone, the slower of their operations at the bfloat16 peak
  and of their operands' way through memory, at the utilisation. Evaluation, validation,
  compilation, reading and communication between devices come on top. `python -m ddjax.benchmark`
  measures what a device reaches."""


def check_utilisation(share: float) -> None:
    """Refuse a share that is none.

    Raises:
      UserError: see there.
    """
    if not 0 < share <= 1:  # nor NaN, which bounds of a flag let pass
        raise UserError(f"--utilisation: got {share}, must be above 0 and at most 1")


def check_batches(config: Config, devices: int) -> None:
    """Refuse batches of the student's trainings that the devices cannot share.

    Raises:
      UserError: see `loop.check_batch`.
    """
    section, methods = config.distill, config.distill.method
    if MAP in methods:
        loop.check_batch("distill", section.train, devices)
    if SCORE in methods:
        loop.check_batch("distill.score.fake", section.score.fake, devices)
        loop.check_batch("distill.score", section.score.train, devices)


def report(config: Config, devices: int, kind: str, utilisation: float) -> str:
    """The whole plan as text.

    Args:
      config: of the job.
      devices: how many.
      kind: of `DEVICES`.
      utilisation: share of the data sheet's rates that is reached.

    Raises:
      UserError: a mesh or a batch that does not fit the number of devices, or a share that is none.
    """
    check_utilisation(utilisation)
    sharding.check_mesh(config.mesh.fsdp, devices)
    check_batches(config, devices)
    device, nets, fsdp = DEVICES[kind], models(config), config.mesh.fsdp
    stages = training_stages(config, nets, devices)
    if MAP in config.distill.method:
        stages = [pairs_stage(config, nets, devices), *stages]
    counts = [f"| {name} | {parameters(net) / 1e6:.1f} |" for name, net in nets.items()]
    return "\n\n".join([
        f"{config.name} on {devices} x {kind} ({device.memory / 1e9:.0f} GB, "
        f"{device.peak / 1e12:.0f} TFLOP/s, {device.bandwidth / 1e9:.0f} GB/s each), data "
        f"{devices // fsdp} x fsdp {fsdp}, utilisation {utilisation:.0%}",
        "\n".join(["| model | million parameters |", "| --- | ---: |", *counts]),
        *(memory_table(stage, devices) for stage in stages),
        time_table(stages, devices, device, utilisation),
        *([captions.cache_size(config, devices)] if config.text else []),
        *warnings(stages, device),
        NOTES,
    ])
