"""Sharding: one mesh of all devices, with axes data and fsdp, and the sharding of arrays over it.

Rows of a batch are sharded over both axes. What is trained is sharded over fsdp by its model's
`ddjax.runtime.layout.ParameterLayout`; all else is replicated. The mesh is the one that
`jax.set_mesh` has set; without one, arrays are on the first device.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddjax.runtime import trees
from ddjax.runtime.errors import UserError
from ddjax.runtime.layout import ParameterLayout

AXES = ("data", "fsdp")
BATCH, REPLICATED = PartitionSpec(AXES), PartitionSpec()


def make_mesh(fsdp: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Devices / fsdp copies of what is trained, each sharded over fsdp devices.

    Args:
      fsdp: devices that share a copy.
      devices: all by default.

    Raises:
      UserError: fsdp does not divide the devices; names the meshes that would fit.
    """
    devices = jax.devices() if devices is None else devices
    check_mesh(fsdp, len(devices))
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def check_mesh(fsdp: int, devices: int) -> None:
    """Refuse what `make_mesh` refuses.

    Raises:
      UserError: see there.
    """
    if devices % fsdp:
        fit = [f"{devices // n} x {n}" for n in range(1, devices + 1) if devices % n == 0]
        raise UserError(
            f"config.mesh.fsdp: got {fsdp}, which does not divide {devices} devices; "
            f"data x fsdp may be {', '.join(fit)}"
        )


def one_device() -> Mesh:
    """A mesh of a device of this process alone."""
    return make_mesh(1, jax.local_devices()[:1])


def this_process() -> Mesh:
    """A mesh of the devices of this process, for what needs no other."""
    return make_mesh(1, jax.local_devices())


def devices() -> int:
    """How many devices the current mesh has."""
    return _current().size


def replicate(tree: Any) -> Any:
    """Arrays replicated over all devices of the current mesh."""
    return jax.tree.map(lambda array: _put(array, REPLICATED), tree)


def shard(tree: Any, layout: ParameterLayout) -> Any:
    """Parameters, or a training state, put onto the current mesh; also of shapes and types alone.

    The leaves of a state (average, moments of the optimizer) have names that end as the
    parameters' do.
    """
    return _lay_out(_put, tree, layout, _current().shape["fsdp"])


def constrain(tree: Any, layout: ParameterLayout) -> Any:
    """Within `jax.jit`: what is trained is sharded as by `shard`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return _lay_out(jax.lax.with_sharding_constraint, tree, layout, mesh.shape["fsdp"])


def gather_unstacked(model: Any) -> Any:
    """Within `jax.jit`: a model with its parameters gathered, but for its layout's stacks.

    Those are the bulk, and `scan_gathered` gathers them block by block.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return model

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        stacked = model.layout.is_stacked(trees.path_name(path))
        return leaf if stacked else jax.lax.with_sharding_constraint(leaf, REPLICATED)

    return jax.tree_util.tree_map_with_path(one, model)


def scan_gathered(
    body: Callable, carry: Any, stacked: Any, others: Any, *, layout: ParameterLayout, unroll: int
) -> Any:
    """`jax.lax.scan` over parameters that are sharded: a block's are gathered for its turn.

    No device holds more than a few turns' parameters in full, nor keeps them for the backward
    pass, on which they are gathered once more.

    Args:
      body: (carry, a slice of `shard`, a slice of `others`) -> (carry, output).
      carry: at the start.
      stacked: parameters of all blocks, with a leading axis of blocks.
      others: what else is scanned over.
      layout: by which the parameters are cut.
      unroll: turns a loop of the program.

    Returns:
      the carry at the end, and the outputs, stacked.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1 or AxisType.Manual in mesh.axis_types:
        # Everything is replicated.
        return jax.lax.scan(lambda c, x: body(c, *x), carry, (stacked, others), unroll=unroll)

    def gathered(carry: Any, turn: tuple) -> tuple:
        parameters, rest = turn
        # Said first that the slices are cut, or else the compiler gathers the stack at once.
        parameters = jax.lax.with_sharding_constraint(constrain(parameters, layout), REPLICATED)
        return body(carry, checkpoint_name(parameters, "gathered"), rest)

    keep = jax.checkpoint_policies.save_anything_except_these_names("gathered")
    again = jax.checkpoint(gathered, prevent_cse=False, policy=keep)
    return jax.lax.scan(again, carry, (stacked, others), unroll=unroll)


def constrain_microbatches(array: jax.Array) -> jax.Array:
    """Within `jax.jit`: [parts, rows, ...] with the rows of each part over all devices."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(None, AXES))


def shard_batch(tree: Any, size: int) -> Any:
    """A batch of `size` rows over all devices, from this process' `local_rows` of it."""
    sharding = NamedSharding(_current(), BATCH)
    local = local_rows(size)

    def one(array: np.ndarray) -> jax.Array:
        def share(index: tuple[slice, ...]) -> np.ndarray:
            first, stop, _ = index[0].indices(size)
            at = np.searchsorted(local, first)
            return array[at : at + stop - first]

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, share)

    return jax.tree.map(one, tree)


def batch_like(tree: Any) -> Any:
    """Shapes and types of batches, with the sharding that `shard_batch` gives."""
    return jax.tree.map(lambda array: _put(array, BATCH), tree)


def local_rows(size: int) -> np.ndarray:
    """Which rows [N] of a batch of `size` the devices of this process hold, rising."""
    sharding = NamedSharding(_current(), BATCH)
    indices = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def per_device(function: Callable[..., Any], replicated: int) -> Callable[..., Any]:
    """A function that every device runs on its share of the rows, without collectives.

    Args:
      function: of arrays.
      replicated: so many of the first arguments are replicated; the others, and all results, are
        sharded by rows.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function

    @functools.wraps(function)  # its name in logs and profiles
    def run(*arguments: Any) -> Any:
        shared, rows = arguments[:replicated], arguments[replicated:]
        leaves, structure = jax.tree.flatten(rows)

        def share(shared: tuple, full: list[jax.Array]) -> Any:
            left = iter(full)
            given = [next(left) if leaf.size else _empty_share(leaf) for leaf in leaves]
            return function(*shared, *jax.tree.unflatten(structure, given))

        specs = REPLICATED, BATCH
        # Without empty arrays, such as the ids of no prefix: jaxlib 0.11.2 crashes on them.
        return jax.shard_map(share, in_specs=specs, out_specs=BATCH, check_vma=False)(
            shared, [leaf for leaf in leaves if leaf.size]
        )

    return run


def _empty_share(array: jax.Array) -> jax.Array:
    """What a device has of an empty array of rows."""
    share = len(array) // jax.sharding.get_abstract_mesh().size
    return jnp.zeros((share, *array.shape[1:]), array.dtype)


def to_host(array: jax.Array) -> np.ndarray:
    """An array of any shape [...] on every host, gathered from all devices."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def local_to_host(array: jax.Array) -> np.ndarray:
    """The rows of a batch that this process' devices hold, in the order of `local_rows`."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def _current() -> Mesh:
    mesh = jax.sharding.get_mesh()
    return one_device() if mesh.empty else mesh


def _put(array: Any, spec: PartitionSpec) -> Any:
    sharding = NamedSharding(_current(), spec)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
    if isinstance(array, jax.Array) and array.is_fully_addressable and len(
        sharding.device_set
    ) == len(sharding.addressable_devices):
        return jax.device_put(array, sharding)
    array = to_host(array) if isinstance(array, jax.Array) else np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _lay_out(put: Callable, tree: Any, layout: ParameterLayout, fsdp: int) -> Any:
    def one(path: tuple, leaf: Any) -> Any:
        return put(leaf, _spec(layout.cut_axis(trees.path_name(path)), leaf.shape, fsdp))

    return jax.tree_util.tree_map_with_path(one, tree)


def _spec(axis: int | None, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Whole where there is no such axis, or fsdp does not divide it."""
    if axis is None or len(shape) < -axis or shape[axis] % fsdp:
        return REPLICATED
    return PartitionSpec(*(None,) * (len(shape) + axis), "fsdp")
