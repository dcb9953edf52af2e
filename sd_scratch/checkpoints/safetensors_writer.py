"""Writing `.safetensors`: the header, then one tensor after the other, cast as it is written.

The library's own writer wants all tensors in memory in their final type, which for a cast is a second
copy of the weights; and it leaves files that only their owner can read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from sd_scratch.checkpoints.safetensors_file import DTYPE_NAMES
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import check_target, write_file


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> None:
    """Write `tensors`, cast to `dtype`, with `metadata` in the header: the whole file or nothing.

    Raises ScratchError when `path` exists and `overwrite` is false, when it cannot be written, and for
    a tensor with NaN, infinities or values that `dtype` cannot hold.
    """
    check_target(path)
    try:
        write_file(path, _pieces(path, tensors, dtype, metadata), overwrite=overwrite)
    except FileExistsError:
        raise UsageError(f"{path} - exists already - choose another name") from None


def _pieces(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The file's bytes, a tensor at a time."""
    yield header_bytes({key: tensor.shape for key, tensor in tensors.items()}, dtype, metadata)
    for key, tensor in tensors.items():
        data = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
        if not torch.isfinite(data).all():
            raise ScratchError(
                f"{path} - {key} holds NaN, infinities or numbers too large for {DTYPE_NAMES[dtype]} -"
                " nothing was written"
            )
        yield data.reshape(-1).view(torch.uint8).numpy().data


def header_bytes(
    shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, metadata: Mapping[str, str]
) -> bytes:
    """What stands before the numbers of tensors of these shapes, which follow in this order."""
    # "pt" says that tensors are laid out as PyTorch has them; transformers insists on it.
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for key, shape in shapes.items():
        end = offset + prod(shape) * dtype.itemsize
        header[key] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text
