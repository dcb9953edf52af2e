"""Networks from stored tensors: built on `meta` without memory, checked, then filled one at a time."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sd_scratch.checkpoints.memory import require_memory
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.errors import ScratchError

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)

COUNTER = "num_batches_tracked"
LARGE = 1 << 18  # numbers of a weight that is worth keeping in a narrower type
READERS = 2  # threads; more do not read faster from memory


class _WithoutInitialValues(TorchFunctionMode):
    """Leave parameters as they are allocated. Random values on `meta` are no values, and drawing them
    there makes PyTorch import its compiler, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == nn.init.__name__:
            return None
        return func(*args, **(kwargs or {}))


def empty(network: Callable[[C], N], config: C) -> N:
    """The network of a configuration on the `meta` device: shapes and names, no memory."""
    with torch.device("meta"), _WithoutInitialValues():
        return network(config)


def seeded(build: Callable[[], N], seed: int) -> N:
    """The result of `build` with random weights from `seed`; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def check(
    network: nn.Module, title: str, tensors: Mapping[str, StoredTensor], path: Path
) -> list[str]:
    """Compare the stored tensors with an empty network; returns the names that it does not know.

    Raises ScratchError when a tensor is missing, has another shape, or does not hold floating-point
    numbers. `title` names the network and `path` the checkpoint in errors.
    """
    wanted = weights(network)
    missing = [key for key in wanted if key not in tensors]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ScratchError(
            f"{path} - {len(missing)} of the {title}'s {len(wanted)} tensors are missing: {some}"
            " - the file is incomplete or of another kind of model"
        )
    for key, wanted_tensor in wanted.items():
        _check_tensor(title, key, tensors[key], wanted_tensor, path)
    return [key for key in tensors if key not in wanted]


def weights(network: nn.Module) -> dict[str, Tensor]:
    """The part of a network that a file holds: its state without BatchNorm's counters, which nothing reads."""
    return {k: v for k, v in network.state_dict().items() if not k.endswith(COUNTER)}


def fill(
    network: nn.Module,
    tensors: Mapping[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    low_memory: bool = False,
) -> None:
    """Give an empty network its weights, cast to `dtype` on `device`, and set it to evaluation.

    A few tensors are read at a time, each by its own thread, so memory never holds the weights twice. With
    ``torch.channels_last`` convolution weights are stored in that order. For `low_memory` see `kept_type`.
    """
    wanted = weights(network)
    largest = max(tensors[key].nbytes for key in wanted)
    local = threading.local()  # one buffer for each thread, used for one tensor after the other

    def read(key: str) -> Tensor:
        stored, shape = tensors[key], wanted[key].shape
        kept = kept_type(stored, dtype, low_memory)
        if len(shape) < 4 and stored.torch_dtype == kept and device.type == "cpu":
            return stored.read().reshape(shape)  # as it is to be: no second copy
        if not hasattr(local, "buffer"):
            local.buffer = torch.empty(largest, dtype=torch.uint8)
        order = memory_format if len(shape) == 4 else torch.contiguous_format
        weight = torch.empty(shape, dtype=kept, device=device, memory_format=order)
        return weight.copy_(stored.read(local.buffer).reshape(shape))

    with ThreadPoolExecutor(READERS) as pool:
        state = dict(zip(wanted, pool.map(read, wanted), strict=True))
    counters = network.state_dict().keys() - wanted.keys()
    state |= {key: torch.zeros((), dtype=torch.int64, device=device) for key in counters}
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def kept_type(stored: StoredTensor, dtype: torch.dtype, low_memory: bool) -> torch.dtype:
    """The type of a tensor in memory: `dtype`, or with `low_memory` the file's own if that is narrower. The
    layers widen such a weight for each call, so no bit of a picture changes."""
    if not (low_memory and stored.is_floating and stored.numel >= LARGE):
        return dtype
    return min(stored.torch_dtype, dtype, key=lambda each: each.itemsize)


def check_memory(path: Path, needed: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a load that does not fit into the device's free memory."""
    require_memory(
        needed,
        f"{path} - its weights take, as {dtype_name(dtype)},",
        device,
        "close other programs, load as bf16, or force it",
    )


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")


def _check_tensor(title: str, key: str, stored: StoredTensor, wanted: Tensor, path: Path) -> None:
    if squeezed(stored.shape, wanted.ndim) != tuple(wanted.shape):
        raise ScratchError(
            f"{path} - {title}: {key} is {_by(stored.shape)} and the network needs"
            f" {_by(tuple(wanted.shape))} - the configuration and the weights are of different models"
        )
    if not stored.is_floating:
        raise ScratchError(
            f"{path} - {title}: {key} is stored as {stored.dtype} - quantised weights are not"
            " supported"
        )


def squeezed(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """A 1x1 convolution's ``[C, D, 1, 1]`` as the ``[C, D]`` of a linear layer, where one is wanted:
    the autoencoder's attention is stored either way."""
    return shape[:2] if ndim == 2 and shape[2:] == (1, 1) else shape


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
