"""Names of feature nets, in reports and in files of statistics."""

from typing import NamedTuple

from ddjax.method.protocols import FeatureNet


class Network(NamedTuple):
    """A feature net as reports and files of statistics name it.

    Attributes:
      kind: of `ddjax.models.MODELS`.
      digest: of its weights.
      resize: how it brings images to its size; "" where it does not.
    """

    kind: str
    digest: str
    resize: str = ""

    @classmethod
    def of(cls, net: FeatureNet, kind: str, digest: str) -> "Network":
        """The name of a net."""
        return cls(kind, digest, getattr(net.config, "resize", ""))

    @property
    def is_inception(self) -> bool:
        """Whether its distances are called FID."""
        return self.kind == "inception"
