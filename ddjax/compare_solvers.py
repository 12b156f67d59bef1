"""Solver comparison: `python -m ddjax.compare_solvers --config=configs/digits.py`.

Takes the distributions that a finished teacher really gives along held-out trajectories, and says
for each scheme on how many tokens it agrees with a fine float64 solve, and how far the frequencies
of the tokens it lands on are from the probabilities. With --codebook=16384,8 (LlamaGen's size) or
--codebook=4096,32 (VAR's) the codes and distributions are random instead, and no run is needed.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddjax import cli
from ddjax.config.schema import Config
from ddjax.method import flow
from ddjax.method.random_distributions import random_distributions
from ddjax.method.ways import TeacherFlow
from ddjax.pipeline import Pipeline
from ddjax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "With a finished teacher; runs/NAME-OF-CONFIG by default"
)
_CODEBOOK = flags.DEFINE_list("codebook", None, "V,C of random codes, instead of a teacher's")
_TOKENS = flags.DEFINE_integer("tokens", 16384, "Tokens to compare", lower_bound=1)

# Share of the tokens on which a scheme should agree with the fine solve.
ENOUGH = 0.999
FINE = flow.Solver(steps=500, order=4, reach=6000.0)
SCHEMES = [
    flow.Solver(steps=steps, order=order, reach=reach)
    for order, reach in ((1, 60.0), (3, 60.0), (4, 60.0), (5, 20.0), (5, 60.0), (5, 200.0))
    for steps in (16, 24, 32, 48, 64)
]


def real_distributions(config: Config, root: Path, tokens: int) -> tuple[jax.Array, ...]:
    """Noise [N, C], log-probabilities [N, V] of that many tokens, and the codebook [V, C]."""
    count = -(-tokens // config.groups.length)
    pipe = Pipeline.from_config(config, root, batch=count)
    eps = pipe.noise(count, config.seed)
    numbers = pipe.conditions.number(np.arange(count))
    drawn, _ = pipe.draw(TeacherFlow(), numbers, eps, want=("log_probs",))
    codes_VC = pipe.models(TeacherFlow()).tokenizer.codebook
    eps, log_p = (jnp.asarray(x).reshape(-1, x.shape[-1])[:tokens] for x in (eps, drawn.log_probs))
    return eps, log_p, codes_VC


@functools.partial(jax.jit, static_argnames="solver")
def solve(
    eps: jax.Array, log_p: jax.Array, codes_VC: jax.Array, solver: flow.Solver
) -> jax.Array:
    """Ids [N]: `flow.noise_to_ids`, compiled.

    Args:
      eps: noise [N, C].
      log_p: log-probabilities [N, V].
      codes_VC: the codebook.
      solver: the scheme.
    """
    return flow.noise_to_ids(eps, log_p, codes_VC, solver)


def bias(ids: np.ndarray, log_p: np.ndarray) -> float:
    """Total variation between the frequencies of the ids and the mean of the probabilities."""
    mean_p = np.exp(log_p.astype(np.float64)).mean(0)
    found = np.bincount(ids, minlength=len(mean_p)) / len(ids)
    return float(np.abs(found - mean_p).sum() / 2)


def main(config: Config) -> None:
    """Print the table."""
    if _CODEBOOK.value:
        try:
            vocab, code_dim = map(int, _CODEBOOK.value)
        except ValueError:
            vocab = code_dim = 0
        if min(vocab, code_dim) < 1:
            said = ",".join(_CODEBOOK.value)
            raise UserError(f"--codebook={said}: give two whole numbers, V,C, such as 16384,8")
        what = f"random distributions over {vocab} codes of width {code_dim}"
        eps, log_p, codes_VC = random_distributions(vocab, code_dim, _TOKENS.value)
    else:
        root, what = Path(_WORKDIR.value or f"runs/{config.name}"), f"{config.name}'s teacher"
        eps, log_p, codes_VC = real_distributions(config, root, _TOKENS.value)
    probabilities = np.asarray(log_p)
    with jax.enable_x64(True):
        fine = np.asarray(
            solve(*(jnp.asarray(np.asarray(x), jnp.float64) for x in (eps, log_p, codes_VC)), FINE)
        )
    p = np.exp(probabilities.astype(np.float64))
    entropy = -(p * np.where(p > 0, probabilities, 0)).sum(1).mean()
    print(f"{len(eps)} tokens of {what}, mean entropy {entropy:.2f} nats; bias of the fine solve "
          f"{bias(fine, probabilities):.4f}\n")
    print("| order | reach | steps | agree with the fine solve | bias | |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    agreement = {}
    for scheme in dict.fromkeys([*SCHEMES, config.flow]):
        ids = np.asarray(solve(eps, log_p, codes_VC, scheme))
        agreement[scheme] = np.mean(ids == fine)
        own = "config.flow" if scheme == config.flow else ""
        print(f"| {scheme.order} | {scheme.reach:g} | {scheme.steps} | "
              f"{agreement[scheme]:.2%} | {bias(ids, probabilities):.4f} | {own} |", flush=True)
    print(f"\n{answer(agreement)}\nbias: total variation between the frequencies of the tokens and "
          "the mean of their probabilities")


def answer(agreement: dict[flow.Solver, float]) -> str:
    """Which of the schemes takes the fewest steps for what is `ENOUGH`."""
    enough = [scheme for scheme, share in agreement.items() if share >= ENOUGH]
    if not enough:
        return f"no scheme agrees on {ENOUGH:.1%} of the tokens; more steps may"
    best = min(enough, key=lambda scheme: scheme.steps)
    return (
        f"the fewest steps that agree on {ENOUGH:.1%} of the tokens: "
        f"config.flow.steps={best.steps} with config.flow.order={best.order} and "
        f"config.flow.reach={best.reach:g}"
    )


if __name__ == "__main__":
    cli.start(main)
