"""Study: variants and seeds, what they share, and the workdirs in which they run.

    WORKDIR/shared/           tokenizer, teacher, pairs and feature net of the config
    WORKDIR/KEY=VALUE/        the same of a variant: links, but for what its value changes
    WORKDIR/KEY=VALUE/seed1/  an ordinary workdir: links to those, and its own student

A seed decides the training of a student and what is drawn to judge it: the order of pairs and the
steps k, the initial weights of what the teacher does not have, held-out noise, evaluation.
Tokenizer, teacher, pairs and feature net are those of the config's own seed. Pairs and students
that no method to evaluate reads are not made.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ddjax.ablate.variants import Variant
from ddjax.config.schema import Config
from ddjax.runtime import hosts, sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import feature_net, pairs, registry, running
from ddjax.stages.registry import STAGES, Stage

SHARED = "shared"
_OF_SEED = ("distill", "evaluate")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is to be run.

    Attributes:
      base: the config that variants change.
      variants: of all ablations.
      seeds: students of each variant.
    """

    base: Config
    variants: list[Variant]
    seeds: int

    def __post_init__(self) -> None:
        if self.base.student.weights:
            raise UserError(
                f"config.student.weights: got {self.base.student.weights}, must be none: an "
                "ablation trains its students"
            )

    @property
    def distinct(self) -> list[Variant]:
        """The variants without those whose config another has too."""
        return list({variant.name: variant for variant in self.variants}.values())

    @property
    def shared(self) -> Config:
        """The base with as many pairs as the variants need that have its pairs."""
        counts = [v.config.pairs.count for v in self.variants if self._has_pairs_of_base(v.config)]
        section = dataclasses.replace(
            self.base.pairs, count=max(counts, default=self.base.pairs.count)
        )
        return dataclasses.replace(self.base, pairs=section)

    def _has_pairs_of_base(self, config: Config) -> bool:
        ours, base = (_settings(c, STAGES["pairs"]) for c in (config, self.base))
        return {**ours, "pairs.count": 0} == {**base, "pairs.count": 0}

    def own_stages(self, config: Config) -> list[Stage]:
        """The stages before a student's that a variant does not share whole."""
        return [stage for stage in _made(config)
                if _settings(config, stage) != _settings(self.shared, stage)]

    def takes_pairs(self, config: Config) -> bool:
        """Whether its pairs are the first of the shared ones, and not all."""
        return self._has_pairs_of_base(config) and STAGES["pairs"] in self.own_stages(config)

    def shared_stages(self) -> list[Stage]:
        """The stages of which some variant reads what the base made."""
        used = set()
        for variant in self.variants:
            own = self.own_stages(variant.config)
            used |= {s.name for s in _made(variant.config)
                     if s not in own or (s.name == "pairs" and self.takes_pairs(variant.config))}
        return [stage for stage in STAGES.values() if stage.name in used]

    @property
    def has_students(self) -> bool:
        """Whether a method to evaluate reads one."""
        return any(STAGES["distill"] in registry.for_evaluation(v.config) for v in self.variants)

    def shares_features(self, config: Config) -> bool:
        """Whether the feature net of a variant is that of the base."""
        return feature_net.settings(config) == feature_net.settings(self.base)

    def runs(self, root: Path, variant: Variant) -> Iterator[tuple[Config, Path]]:
        """The config and the workdir of each seed."""
        for i in range(self.seeds):
            config = dataclasses.replace(variant.config, seed=variant.config.seed + i)
            if not config.evaluate.features.weights:
                weights = str(root / variant.name / feature_net.FOLDER)
                net = dataclasses.replace(config.evaluate.features, weights=weights)
                evaluate = dataclasses.replace(config.evaluate, features=net)
                config = dataclasses.replace(config, evaluate=evaluate)
            yield config, root / variant.name / f"seed{i}"


def _settings(config: Config, stage: Stage) -> dict[str, Any]:
    """What decides a stage; model folders by their names, since a plan is made without them."""
    return running.settings(config, stage, lambda where, section: section.weights)


def _made(config: Config) -> list[Stage]:
    """What is made before a student."""
    return [stage for stage in registry.for_evaluation(config) if stage.name not in _OF_SEED]


def run(study: Study, root: Path) -> None:
    """Run everything that is not finished; see the module.

    Raises:
      UserError: as `ddjax.stages.running.run_all`, and before anything is made where a model folder
        of a later stage is missing.
    """
    for variant in study.distinct:
        for stage in registry.for_evaluation(variant.config):
            running.settings(variant.config, stage)
    shared = root / SHARED
    hosts.print_once(f"\n{SHARED}")
    running.run_all(study.shared, shared, study.shared_stages())
    if any(study.shares_features(variant.config) for variant in study.variants):
        _features(study.base, shared)
    for variant in study.distinct:
        _run_variant(study, root, variant)


def _run_variant(study: Study, root: Path, variant: Variant) -> None:
    config, directory = variant.config, root / variant.name
    hosts.print_once(f"\n{variant.name}")
    own = study.own_stages(config)
    _link(root / SHARED, directory, [s.name for s in _made(config) if s not in own])
    if study.takes_pairs(config):
        with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
            pairs.take_from(config, directory, root / SHARED)
    running.run_all(config, directory, own)
    if study.shares_features(config):
        _link(root / SHARED, directory, [feature_net.FOLDER])
    else:
        _features(config, directory)
    for of_seed, workdir in study.runs(root, variant):
        hosts.print_once(f"\n{variant.name}, seed {of_seed.seed}")
        _link(directory, workdir, [stage.name for stage in _made(config)])
        stages = registry.for_evaluation(config)
        running.run_all(of_seed, workdir, [s for s in stages if s.name in _OF_SEED])
        jax.clear_caches()  # each student has programs of its own


def _features(config: Config, directory: Path) -> None:
    """Have the feature net in a workdir."""
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        feature_net.for_evaluation(config, directory)


def _link(source: Path, directory: Path, names: list[str]) -> None:
    """Folders of a workdir that are those of another, by links that may move with both."""
    if hosts.is_first():
        for name in names:
            link = directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(link) and (source / name).exists():
                link.symlink_to(os.path.relpath((source / name).resolve(), link.parent.resolve()))
    hosts.barrier("folders linked")
