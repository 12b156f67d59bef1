"""Stages of a job as a device sees them: calls, operations, memory."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.config.schema import MAP, SCORE, Config, TrainSection
from ddjax.method.guidance import Guided
from ddjax.plan import captions, memory
from ddjax.runtime import flops
from ddjax.runtime.devices import Device
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

    def fits(self, device: Device) -> bool:
        """Whether it fits even if its estimate doubles."""
        return self.total + self.estimated <= USABLE * device.memory

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


def all_stages(config: Config, nets: dict[str, nnx.Module], devices: int) -> list[StagePlan]:
    """The pairs, where a method needs them, and the trainings."""
    trainings = training_stages(config, nets, devices)
    if MAP not in config.distill.method:
        return trainings
    return [pairs_stage(config, nets, devices), *trainings]


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


def _encoder(encoding: captions.Encoding) -> dict[str, float]:
    return {"text encoder": encoding.weights} if encoding.weights else {}


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
