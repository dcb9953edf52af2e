"""The places in diffusers and transformers of the tensors that have names here.

Their modules have the same paths, so one table for each kind of module is enough: for each leaf the module
below that path, and whether the tensor is its input (``<``) or its output (``>``).
"""

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sd_scratch.tensors.names import PICTURE, TensorInfo

ATTENTION = {"q": "to_q>", "k": "to_k>", "v": "to_v>", "z": "to_out.0<", "out": "to_out.0>"}


def _after(*leaves: str) -> dict[str, str]:
    """Leaves that are the outputs of modules of the same names."""
    return {leaf: f"{leaf}>" for leaf in leaves}


PLACES: dict[str, dict[str, str]] = {
    r"resnets\.\d": {
        **_after("norm1", "conv1", "norm2", "conv2"),
        **{"in": "<", "time": "time_emb_proj>", "skip": "conv_shortcut>", "out": ">"},
    },
    r"(down|up)samplers\.0": {"out": ">"},
    r"unet\..*attentions\.\d": {**_after("norm", "proj_in", "proj_out"), "in": "<", "out": ">"},
    r"transformer_blocks\.0": {
        **_after("norm1", "norm2", "norm3"),
        **{"resid0": "<", "resid1": "norm2<", "resid2": "norm3<", "resid3": ">"},
    },
    r"attn[12]": ATTENTION,
    r"ff": {"value": "net.0.proj>", "gate": "net.0.proj>", "act": "net.0>", "out": "net.2>"},
    r"up_blocks\.\d": {f"concat.{i}": f"resnets.{i}<" for i in range(3)},
    r"unet": {
        **_after("conv_in", "time_proj", "time_embedding"),
        **{"x": "conv_in<", "h": "mid_block>", "norm_out": "conv_norm_out>", "pred": "conv_out>"},
    },
    r"vae\..*attentions\.0": {**ATTENTION, "in": "<", "norm": "group_norm>", "resid_out": ">"},
    r"vae\.encoder": {**_after("conv_in", "conv_out"), "norm_out": "conv_norm_out>"},
    r"vae\.decoder": {**_after("conv_in"), "norm_out": "conv_norm_out>"},
    r"vae": {
        **_after("post_quant_conv"),
        **{"moments": "quant_conv>", "z": "post_quant_conv<", "image": "decoder>"},
    },
    r"text": _after("final_layer_norm"),
    r"text\.embeddings": _after("token_embedding", "position_embedding"),
    r"text\.encoder\.layers\.\d+": {
        **_after("layer_norm1", "layer_norm2"),
        **{"resid_in": "<", "resid_mid": "layer_norm2<", "resid_out": ">"},
    },
    r"text\..*self_attn": {
        **{leaf: f"{leaf}_proj>" for leaf in ("q", "k", "v", "out")},
        "z": "out_proj<",
    },
    r"text\..*mlp": {"pre": "fc1>", "act": "fc2<", "out": "fc2>"},
}


def place(info: TensorInfo, modules: Iterable[str]) -> str | None:
    """The tensor's place in a network with modules at these paths: ``mid_block>``; None if no single module
    makes it."""
    for pattern, table in PLACES.items():
        if re.fullmatch(rf"(.*\.)?{pattern}", info.path) and info.leaf in table:
            inside = info.path.partition(".")[2]
            where = ".".join(part for part in (inside, table[info.leaf]) if part)
            where = where.replace(".<", "<").replace(".>", ">")
            if info.leaf == "skip" and where[:-1] not in set(modules):
                return f"{inside}<"  # a module only where the number of channels changes
            return where
    return None


def same_form(theirs: Tensor, info: TensorInfo) -> Tensor:
    """Their tensor with heads, feature maps and halves laid out like ours."""
    if info.leaf in ("value", "gate"):
        return theirs.chunk(2, dim=-1)[info.leaf == "gate"]
    if "head" in info.axes:
        return theirs.reshape(*theirs.shape[:-1], info.shape[1], -1).transpose(1, 2)
    if theirs.dim() == 3 and info.axes == PICTURE:
        if info.leaf in ("proj_in", "proj_out"):  # linear layers, the places in a row
            theirs = theirs.transpose(1, 2)
        return theirs.reshape(theirs.shape[0], *info.shape[1:])
    return theirs


class Watcher(ExitStack):
    """While entered, passes every tensor of their network with one of these names to `hear`."""

    def __init__(
        self,
        network: nn.Module,
        infos: Iterable[TensorInfo],
        hear: Callable[[TensorInfo, Tensor], None],
    ) -> None:
        super().__init__()
        self.network, self.hear = network, hear
        modules = dict(network.named_modules())
        self.found: dict[str, list[TensorInfo]] = {}
        for info in infos:
            where = place(info, modules)
            if where is not None and where[:-1] in modules:
                self.found.setdefault(where, []).append(info)

    @property
    def names(self) -> list[str]:
        """Of the tensors that have a place in the network."""
        return [info.name for infos in self.found.values() for info in infos]

    def __enter__(self) -> "Watcher":
        super().__enter__()
        for where, infos in self.found.items():
            module = self.network.get_submodule(where[:-1])
            if where.endswith("<"):
                hook = module.register_forward_pre_hook(self._before(infos), with_kwargs=True)
            else:
                hook = module.register_forward_hook(self._after(infos))
            self.callback(hook.remove)
        return self

    def _before(self, infos: list[TensorInfo]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._tell(infos, args[0] if args else kwargs.get("hidden_states"))

        return hook

    def _after(self, infos: list[TensorInfo]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._tell(infos, output[0] if isinstance(output, tuple) else output)

        return hook

    def _tell(self, infos: list[TensorInfo], x: Any) -> None:
        for info in infos:
            if isinstance(x, Tensor):
                self.hear(info, same_form(x, info))
