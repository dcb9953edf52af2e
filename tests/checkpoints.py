"""Checkpoints on disk for the tests: whole ones, and ways to spoil them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd_scratch.checkpoints import Components


def raw_file(path: Path, header: str | bytes, data: bytes = b"") -> Path:
    """A `.safetensors` file with exactly this header and these bytes."""
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def raw_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A `.safetensors` file by the library's own writer."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def named_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A `.safetensors` file of zeros, which says by its names and shapes what it claims to be."""
    return raw_tensors(path, {k: torch.zeros(shape) for k, shape in shapes.items()})


def rewrite(path: Path, change: Mapping[str, Tensor | None]) -> None:
    """Replace, add or (None) remove tensors of a `.safetensors` file; metadata is lost."""
    tensors = load_file(path) | {k: v for k, v in change.items() if v is not None}
    for key in (k for k, v in change.items() if v is None):
        del tensors[key]
    raw_tensors(path, tensors)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same_weights(ours: Components, theirs: Components, tolerance: float = 0.0) -> None:
    """All weights equal, up to `tolerance` relative to their size; the smallest lose digits in fp16."""
    smallest = 2**-24 if tolerance else 0.0
    for name, network in ours.networks.items():
        expected = theirs.networks[name].state_dict()
        found = network.state_dict()
        assert found.keys() == expected.keys()
        for key in found:
            a, b = found[key].float(), expected[key].float()
            assert torch.allclose(a, b, rtol=tolerance, atol=smallest), f"{name}.{key}"
