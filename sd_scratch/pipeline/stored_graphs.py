"""The U-Net, compiled once a machine, model and size of call, and stored for the next start.

The stored code, 5 MB for Stable Diffusion 1.x in the user's cache, uses the network's own weights, except
convolutions', which are packed into oneDNN's order when a graph is loaded. A graph has no named tensors:
calls with listeners are computed layer by layer, and so are those with a control.
"""

import functools
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import sd_scratch.networks
from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.hashes import cache_file
from sd_scratch.errors import ScratchError, log
from sd_scratch.networks.layers import Conv2d, Linear
from sd_scratch.networks.tiles import in_tiles
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.tuning import convolutions_are_fast, this_machine
from sd_scratch.tensors import Tapped
from sd_scratch.tensors.unofficial import Packing, load_graph, pack_convolutions, store_graph

IDENTITY, CONVOLUTIONS = "sd_scratch", "convolutions"  # what is stored beside a graph


class StoredGraphs:
    """The calls of a U-Net on a CPU by stored graphs, one for each shape of call; its `compiled_call`. Its weights
    must not change any more."""

    def __init__(self, unet: UNet) -> None:
        self._unet = unet
        self._graphs: dict[str, Any] = {}
        # Packed for the first graph; every graph can read them.
        self._packed: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor | None:
        """The prediction; None with listeners inside or gradients."""
        gradients = torch.is_grad_enabled() and (x_t.requires_grad or context.requires_grad)
        if gradients or any(m.probe for m in self._unet.modules() if isinstance(m, Tapped)):
            return None
        # A graph reads memory in the order for which it was made, and does not look.
        inputs = x_t.contiguous(), t.contiguous(), context.contiguous()
        identity = _identity(self._unet, inputs)
        with self._lock:
            if identity not in self._graphs:
                self._graphs[identity] = self._graph(identity, inputs)
        prediction: Tensor = self._graphs[identity](*inputs)
        return prediction

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the network has no graphs, as its weights may change."""

    @torch.no_grad()
    def _graph(self, identity: str, inputs: tuple[Tensor, ...]) -> Any:
        key = hashlib.sha256(identity.encode()).hexdigest()[:10]
        try:
            path = cache_file().with_name(f"unet-{key}.pt2")
        except RuntimeError:  # the home folder is unknown
            raise ScratchError("a compiled graph has no place - set XDG_CACHE_HOME") from None
        graph = _stored(path, identity)
        if graph is None:
            shape = "x".join(map(str, inputs[0].shape))
            log.info(f"compiling the U-Net for calls of {shape}: minutes, once on this machine")
            _make(self._unet, inputs, path, identity)
            graph = _stored(path, identity)
            if graph is None:
                raise ScratchError(f"{path} - cannot be read back - is the disk full?")
        weights = self._unet.state_dict()
        for name, packing in json.loads(graph.get_metadata()[CONVOLUTIONS]).items():
            if name not in self._packed:
                self._packed[name] = Packing(*packing).pack(weights[name])
            weights[name] = self._packed[name]
        constants = {name: weights[name] for name in graph.get_constant_fqns()}
        graph.load_constants(constants, check_full_update=True, user_managed=True)
        return graph


def _identity(unet: UNet, inputs: tuple[Tensor, ...]) -> str:
    """Everything that a graph depends on beside weights."""
    kinds = [
        (m.wrap, m.tile_cells) if isinstance(m, Conv2d) else m.by_convolution
        for m in unet.modules()
        if isinstance(m, Conv2d | Linear)
    ]
    return json.dumps(
        {
            **this_machine(),
            "code": _code(),
            "model": hashlib.sha256(repr((unet.config, kinds)).encode()).hexdigest(),
            "call": [[str(x.dtype), *x.shape] for x in inputs],
        }
    )


@functools.cache
def _code() -> str:
    """A checksum of the networks' source; read once, not at every call."""
    files = sorted(Path(sd_scratch.networks.__path__[0]).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _stored(path: Path, identity: str) -> Any:
    """The graph in a file; None without one, or, with a warning, if it does not fit."""
    if not path.is_file():
        return None
    in_tiles()  # which it may call
    try:
        graph = load_graph(path)
        if graph.get_metadata().get(IDENTITY) == identity:
            return graph
        reason = "was made for another machine, version or model"
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        reason = f"is no compiled graph ({str(error).splitlines()[0][:100]})"
    log.warning(f"{path} - {reason} - it is made again")
    return None


def _make(unet: UNet, inputs: tuple[Tensor, ...], path: Path, identity: str) -> None:
    """Compile a call, and store it."""
    program = torch.export.export(_copy(unet), inputs, strict=False)
    weight = unet.conv_in.weight
    packed = convolutions_are_fast(weight.device, weight.dtype)
    convolutions = pack_convolutions(program) if packed else {}
    facts = {IDENTITY: identity, CONVOLUTIONS: json.dumps(convolutions)}
    part = path.with_suffix(f".{os.getpid()}.pt2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store_graph(program, part, facts)
        os.replace(part, path)
    except OSError as error:
        raise ScratchError(f"{path} - cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _copy(unet: UNet) -> UNet:
    """A network with the same weights and no listeners. A linear layer that runs as a convolution has a
    convolution's weights, so these can be packed, too."""
    copy = empty(UNet, unet.config)
    copy.load_state_dict(unet.state_dict(), assign=True)
    for ours, its in zip(unet.modules(), copy.modules(), strict=True):
        if isinstance(ours, Conv2d):
            convolution = cast(Conv2d, its)
            convolution.wrap, convolution.tile_cells = ours.wrap, ours.tile_cells
        if isinstance(ours, Linear):
            layer = cast(Linear, its)
            layer.by_convolution = ours.by_convolution
            if ours.by_convolution:
                layer.weight = nn.Parameter(ours.weight[:, :, None, None], requires_grad=False)
    return copy.eval()
