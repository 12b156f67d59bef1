"""One mesh of all devices, with axes data and fsdp, and how arrays lie on it.

Rows of a batch are cut over both axes. What is trained is cut over fsdp by `RULES`; all else is
whole on every device. The mesh is the one that `jax.set_mesh` has set; without one, arrays lie on
the first device.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddjax import trees
from ddjax.errors import UserError

AXES = ("data", "fsdp")
ROWS, WHOLE = PartitionSpec(AXES), PartitionSpec()

# Which axis of what is trained is cut over fsdp, by the end of its name: of kernels the inputs, of
# tables of embeddings the rows. Other names, and axes that fsdp does not divide, stay whole: they
# are small.
RULES = (("kernel", -2), ("embedding", -2))


def make_mesh(fsdp: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Devices / fsdp copies of what is trained, each cut over fsdp devices.

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


def whole(tree: Any) -> Any:
    """Arrays put in full onto every device of the current mesh."""
    return jax.tree.map(lambda array: _put(array, WHOLE), tree)


def cut(tree: Any) -> Any:
    """What is trained, put onto the current mesh by `RULES`; also arrays of shapes and types."""
    return _map_rules(_put, tree, _current().shape["fsdp"])


def constrain(tree: Any) -> Any:
    """Within `jax.jit`: what is trained lies as `cut` puts it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return _map_rules(jax.lax.with_sharding_constraint, tree, mesh.shape["fsdp"])


def gather_unstacked(model: Any) -> Any:
    """Within `jax.jit`: a model whose parameters are whole, but for those of stacked blocks.

    Those are the bulk, and `scan_gathered` gathers them block by block.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return model

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        stacked = "/blocks/" in trees.path_name(path)
        return leaf if stacked else jax.lax.with_sharding_constraint(leaf, WHOLE)

    return jax.tree_util.tree_map_with_path(one, model)


def scan_gathered(body: Callable, carry: Any, cut: Any, others: Any, unroll: int) -> Any:
    """`jax.lax.scan` over parameters that `cut` has cut: each is whole while the body has it.

    No device holds more than a few turns' parameters in full, nor keeps them for the way back, on
    which they are gathered once more.

    Args:
      body: (carry, a slice of `cut`, a slice of `others`) -> (carry, output).
      carry: at the start.
      cut: parameters, stacked.
      others: what else is scanned over.
      unroll: turns a loop of the program.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1 or AxisType.Manual in mesh.axis_types:
        # Everything is whole.
        return jax.lax.scan(lambda c, x: body(c, *x), carry, (cut, others), unroll=unroll)

    def gathered(carry: Any, turn: tuple) -> tuple:
        parameters, rest = turn
        # Said first that the slices are cut, or else the compiler gathers the stack at once.
        parameters = jax.lax.with_sharding_constraint(constrain(parameters), WHOLE)
        return body(carry, checkpoint_name(parameters, "gathered"), rest)

    keep = jax.checkpoint_policies.save_anything_except_these_names("gathered")
    again = jax.checkpoint(gathered, prevent_cse=False, policy=keep)
    return jax.lax.scan(again, carry, (cut, others), unroll=unroll)


def constrain_parts(array: jax.Array) -> jax.Array:
    """Within `jax.jit`: [parts, rows, ...] with the rows of each part over all devices."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(None, AXES))


def rows(tree: Any, size: int) -> Any:
    """A batch of `size` rows over all devices, from this process' `local_rows` of it."""
    sharding = NamedSharding(_current(), ROWS)
    local = local_rows(size)

    def one(array: np.ndarray) -> jax.Array:
        def share(index: tuple[slice, ...]) -> np.ndarray:
            first, stop, _ = index[0].indices(size)
            at = np.searchsorted(local, first)
            return array[at : at + stop - first]

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, share)

    return jax.tree.map(one, tree)


def rows_like(tree: Any) -> Any:
    """Shapes and types of batches, said to lie as `rows` puts them."""
    return jax.tree.map(lambda array: _put(array, ROWS), tree)


def local_rows(size: int) -> np.ndarray:
    """Which rows of a batch of `size` the devices of this process hold, rising."""
    sharding = NamedSharding(_current(), ROWS)
    indices = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def each_device(function: Callable[..., Any], whole: int) -> Callable[..., Any]:
    """A function that every device runs on its share of the rows, without messages.

    Args:
      function: of arrays.
      whole: so many of the first arguments are whole; the others, and all results, have rows.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function

    @functools.wraps(function)  # its name in logs and profiles
    def run(*arguments: Any) -> Any:
        specs = tuple(WHOLE if i < whole else ROWS for i in range(len(arguments)))
        return jax.shard_map(function, in_specs=specs, out_specs=ROWS, check_vma=False)(*arguments)

    return run


def host(array: jax.Array) -> np.ndarray:
    """An array in full on every process, wherever its parts lie."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


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
    array = host(array) if isinstance(array, jax.Array) else np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _map_rules(put: Callable, tree: Any, fsdp: int) -> Any:
    def one(path: tuple, leaf: Any) -> Any:
        return put(leaf, _spec(trees.path_name(path), leaf.shape, fsdp))

    return jax.tree_util.tree_map_with_path(one, tree)


def _spec(name: str, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    for end, axis in RULES:
        if re.fullmatch(f"(.*[/_])?{end}", name):
            if len(shape) >= -axis and shape[axis] % fsdp == 0:
                return PartitionSpec(*(None,) * (len(shape) + axis), "fsdp")
            break
    return WHOLE
