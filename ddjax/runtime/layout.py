"""Parameter layout: which parameters of a model decay, and how they are sharded.

A model class says it by the names of its parameters, in its attribute `layout`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ParameterLayout:
    """What training has to know about parameters, by the last part of their names.

    The defaults fit the names that Flax's layers give, and stacks of blocks called `blocks`.

    Attributes:
      decayed: parameters that weight decay applies to.
      cut: (parameter, axis): the axis, counted from the last, that is sharded over fsdp;
        of kernels the inputs, of embeddings the rows. Other parameters are small and stay whole.
      stacks: modules whose parameters have a leading axis of blocks, which
        `ddjax.runtime.sharding.scan_gathered` gathers one after another.
    """

    decayed: tuple[str, ...] = ("kernel",)
    cut: tuple[tuple[str, int], ...] = (("kernel", -2), ("embedding", -2))
    stacks: tuple[str, ...] = ("blocks",)

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to a parameter, such as "trunk/head/kernel"."""
        return _last(name) in self.decayed

    def cut_axis(self, name: str) -> int | None:
        """The axis of a parameter that is sharded over fsdp; None if it stays whole."""
        return dict(self.cut).get(_last(name))

    def is_stacked(self, name: str) -> bool:
        """Whether a parameter belongs to a stack."""
        return not set(self.stacks).isdisjoint(name.split("/"))


def _last(name: str) -> str:
    return name.rpartition("/")[-1]
