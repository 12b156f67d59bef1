"""Platform that programs are traced for: a CPU takes other ways than accelerators."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_ELSEWHERE: contextvars.ContextVar[str | None] = contextvars.ContextVar("elsewhere", default=None)


def is_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return (_ELSEWHERE.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """What is traced inside is meant for a platform that may not be here.

    Args:
      platform: as JAX names it: "cpu", "gpu", "tpu".
    """
    token = _ELSEWHERE.set(platform)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)
