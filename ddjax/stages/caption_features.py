"""Conditions of the stages that read all captions: by the feature cache, if the config has one.

The first of them that runs fills it: each process makes whole shards with its own devices. It may
be shared by runs of the same captions and encoder.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.config.schema import Config
from ddjax.data.conditions import CaptionTexts, Conditions
from ddjax.runtime import hosts, progress, sharding
from ddjax.stages import running
from ddjax.storage import files, run_models
from ddjax.storage.feature_cache import CachedCaptions, FeatureCache


def conditions(config: Config) -> Conditions:
    """The conditions of a run; features that the cache lacks are made.

    Raises:
      UserError: the cache is of other captions or another encoder, damaged, or another run writes
        there; or as `run_models.conditions`.
    """
    captions = run_models.conditions(config)
    if config.text is None or not config.text.cache:
        return captions
    cache = FeatureCache(Path(config.text.cache), captions.count, captions.width)
    hosts.check_shared(cache.directory)
    read = captions_read(config, captions.count, jax.device_count())
    first = hosts.is_first()
    if first:
        about = running.captions(config) | {
            "count": captions.count, "tokens": captions.tokens, "width": captions.width
        }
        cache.begin(about)
    hosts.barrier("feature cache begun")
    if cache.missing(read):
        lock = files.locked(cache.directory / ".lock", "give another config.text.cache")
        with lock if first else contextlib.nullcontext():
            _fill(config, cache, read)
    cache.open(read)
    return CachedCaptions(captions, cache)


def captions_read(config: Config, count: int, devices: int) -> int:
    """How many of `count` captions a run reads, in their order; a batch may go past the last."""
    batch = max(config.pairs.batch, config.evaluate.batch) * devices
    return min(count, max(config.pairs.count, config.evaluate.samples) + batch)


def _fill(config: Config, cache: FeatureCache, read: int) -> None:
    """Make what is missing; the encoder is let go of at the end."""
    captions = run_models.conditions(config)
    wanted = cache.missing(read)
    hosts.barrier("feature cache looked through")
    mine = hosts.share(list(wanted))
    with jax.set_mesh(sharding.this_process()):
        for name in progress.bar(mine, "features", len(mine)):
            cache.write(name, _features(captions, wanted[name], config.pairs.batch))
    hosts.barrier("feature cache written")
    made = sum(map(len, wanted.values()))
    hosts.print_once(
        f"features   of {made} captions made for {cache.directory}{captions.remark()}"
    )


def _features(captions: CaptionTexts, numbers: range, batch: int) -> Iterator[np.ndarray]:
    """Features [tokens, E] bfloat16 of these captions, without padding."""
    total = batch * sharding.devices()
    for first in range(numbers.start, numbers.stop, total):
        # The last caption once more where a batch is not full.
        rows = np.minimum(np.arange(first, first + total), numbers.stop - 1)
        found = captions.encode(sharding.shard_batch(captions.take(rows), total))
        narrow = found["features"].astype(jnp.bfloat16)
        features_BTE, mask_BT = map(np.asarray, (narrow, found["mask"]))
        for row in range(min(total, numbers.stop - first)):
            yield features_BTE[row, mask_BT[row]]
