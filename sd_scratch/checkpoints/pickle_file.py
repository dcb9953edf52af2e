"""Reading PyTorch's pickles (`.bin`, `.pt`, `.ckpt`) without running what a stranger wrote in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from sd_scratch.checkpoints.safetensors_file import DTYPES, StoredTensor
from sd_scratch.errors import ScratchError

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class HeldTensor(StoredTensor):
    """A tensor that is in memory already, to be read as one in a file is."""

    tensor: Tensor

    @staticmethod
    def of(path: Path, key: str, tensor: Tensor) -> "HeldTensor":
        name = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        size = tensor.numel() * tensor.itemsize
        return HeldTensor(path, key, name, tuple(tensor.shape), 0, size, tensor)

    def read(self, buffer: Tensor | None = None) -> Tensor:
        return self.tensor


def read_pickle(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a state dict, by PyTorch's restricted reader, which runs no code.

    Raises ScratchError for a damaged file, one that wants more than tensors, or holds no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise ScratchError(
            f"{path} - cannot be read ({type(error).__name__}) - download it again"
        ) from None
    if not isinstance(state, dict):
        raise ScratchError(f"{path} - holds a {type(state).__name__} and no weights by their names")
    return {k: HeldTensor.of(path, k, v) for k, v in state.items() if isinstance(v, Tensor)}
