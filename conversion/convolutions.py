"""Rules for convolutions, norms and residual blocks, shared by LlamaGen's and VAR's tokenizers."""

from conversion.tables import CONV, Rule, Transform


def layer_rules(source: str, target: str, transform: Transform = CONV) -> tuple[Rule, Rule]:
    """Weight and bias of a convolution, or of a linear layer by `transform`."""
    return (
        Rule(source + r"\.weight", target + "/kernel", transform),
        Rule(source + r"\.bias", target + "/bias"),
    )


def norm_rules(source: str, target: str) -> tuple[Rule, Rule]:
    """Weight and bias of a group norm."""
    return Rule(source + r"\.weight", target + "/scale"), Rule(source + r"\.bias", target + "/bias")


def res_rules(source: str, target: str, groups: int) -> tuple[Rule, ...]:
    """A residual block; `groups` numbers of the block's own place come before."""
    number = f"{{{groups}}}"
    return (
        *norm_rules(source + r"\.norm([12])", f"{target}/norm{number}/norm"),
        *layer_rules(source + r"\.conv([12])", f"{target}/conv{number}"),
        *layer_rules(source + r"\.nin_shortcut", f"{target}/shortcut"),
    )
