"""Cost estimate of a job: memory, operations and hours, before it is started.

    python -m ddjax.plan --config=configs/llamagen.py:L --devices=64 --device=v5p \
        --config.mesh.fsdp=8

All of it follows from the config: programs are traced with shapes and types in place of arrays, no
weights are read and nothing is allocated. The output says how each figure is estimated.
"""

import jax

from ddjax.config.schema import MAP, SCORE, Config
from ddjax.plan import captions, compiled, fitting, stages
from ddjax.plan.stages import USABLE, StagePlan
from ddjax.runtime import platform, sharding
from ddjax.runtime.devices import DEVICES, Device


def warnings(planned: list[StagePlan], device: Device) -> list[str]:
    """A line for each stage that does not fit, or might not if its estimate doubles."""
    usable = USABLE * device.memory
    return [
        f"WARNING: {stage.name} {'will' if stage.total > usable else 'may'} not fit: "
        f"{stage.total / 1e9:.1f} GB, of which {stage.estimated / 1e9:.1f} are an estimate, where "
        f"{usable / 1e9:.1f} of {device.memory / 1e9:.0f} GB can be used; "
        f"{'lower' if stage.name == 'pairs' else 'raise'} config.{fitting.KEYS[stage.name]}, or "
        "take more devices or a higher config.mesh.fsdp"
        for stage in planned if not stage.fits(device)
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


def time_table(
    planned: list[StagePlan], devices: int, device: Device, utilisation: float
) -> str:
    """Work and hours, as Markdown.

    Args:
      planned: stages of the job.
      devices: how many.
      device: of which kind.
      utilisation: share of the data sheet's rates that is reached.
    """
    lines = [
        "| stage | TFLOP an example | calls | TFLOP a call | bound by | ms a call | hours |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    total = 0.0
    for stage in planned:
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
    nets = stages.models(config)
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
    stages.check_utilisation(utilisation)
    sharding.check_mesh(config.mesh.fsdp, devices)
    stages.check_batches(config, devices)
    device, nets, fsdp = DEVICES[kind], stages.models(config), config.mesh.fsdp
    with platform.traced_for("tpu" if device.kind.startswith("TPU") else "gpu"):
        planned = stages.all_stages(config, nets, devices)
        found = fitting.settings(config, nets, planned, devices, device)
    counts = [f"| {name} | {stages.parameters(net) / 1e6:.1f} |" for name, net in nets.items()]
    return "\n\n".join([
        f"{config.name} on {devices} x {kind} ({device.memory / 1e9:.0f} GB, "
        f"{device.peak / 1e12:.0f} TFLOP/s, {device.bandwidth / 1e9:.0f} GB/s each), data "
        f"{devices // fsdp} x fsdp {fsdp}, utilisation {utilisation:.0%}",
        "\n".join(["| model | million parameters |", "| --- | ---: |", *counts]),
        *(memory_table(stage, devices) for stage in planned),
        time_table(planned, devices, device, utilisation),
        *([captions.cache_size(config, devices)] if config.text else []),
        *warnings(planned, device),
        *fitting.advice(found, device),
        NOTES,
    ])
