"""Accelerator specifications: peak operations, memory and bandwidth by the data sheets.

TPUs: cloud.google.com/tpu/docs (a chip). GPUs: NVIDIA's data sheets of the A100 (SXM), H100 (SXM),
H200, L40S and L4. Gigabytes are counted as 10^9 bytes, the least that they can mean.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
      kind: what JAX's `device_kind` contains for it, with no digit behind.
      peak: dense bfloat16 operations a second.
      memory: bytes.
      bandwidth: of that memory, bytes a second.
    """

    kind: str
    peak: float
    memory: float
    bandwidth: float


# In the order in which kinds are looked for: "TPU v5" is part of "TPU v5 lite".
DEVICES = {
    "v4": Device("TPU v4", 275e12, 32e9, 1200e9),
    "v5e": Device("TPU v5 lite", 197e12, 16e9, 819e9),
    "v5p": Device("TPU v5", 459e12, 95e9, 2765e9),
    "v6e": Device("TPU v6 lite", 918e12, 32e9, 1638e9),
    "A100-40": Device("A100", 312e12, 40e9, 1555e9),
    "A100-80": Device("A100", 312e12, 80e9, 2039e9),
    "H100": Device("H100", 989e12, 80e9, 3350e9),
    "H200": Device("H200", 989e12, 141e9, 4800e9),
    "L40S": Device("L40S", 362e12, 48e9, 864e9),
    "L4": Device("L4", 121e12, 24e9, 300e9),
}
