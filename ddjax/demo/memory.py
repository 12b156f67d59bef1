"""Free memory of a device."""

from pathlib import Path

import jax


def free(device: jax.Device) -> int | None:
    """Bytes that a program may still take; None where nobody can tell."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _of_this_machine() if device.platform == "cpu" else None


def _of_this_machine() -> int | None:
    """What Linux says is available, page cache included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(found["MemAvailable"]) * 1024 if "MemAvailable" in found else None
