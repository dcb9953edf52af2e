"""Every use of PyTorch's internals, which may change without notice: nothing public does the same."""

import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram


def without_numbers() -> AbstractContextManager[object]:
    """Inside, operations make shapes and types and no numbers, also from tensors with numbers, which the
    public ``meta`` device cannot mix in."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def uncompiled(network: nn.Module) -> nn.Module:
    """The module inside the result of ``torch.compile``, or the module itself."""
    inner = getattr(network, "_orig_mod", network)
    return inner if isinstance(inner, nn.Module) else network


def is_compiled(network: nn.Module) -> bool:
    """Whether the network or a module in it was compiled, in place or not."""
    if "torch._dynamo" not in sys.modules:  # which is imported for it
        return False
    return any(
        m._compiled_call_impl is not None or uncompiled(m) is not m for m in network.modules()
    )


def freeze_compiled_weights() -> None:
    """Let later compilations treat weights as constants. As an option of ``torch.compile`` it comes too late:
    the tracer has made the weights inputs by then."""
    import torch._inductor.config as inductor  # loads the compiler

    inductor.freezing = True


class Packing(NamedTuple):
    """Of a convolution: its padding, its stride, and the shape of its input, for which its weights are packed."""

    padding: list[int]
    stride: list[int]
    shape: list[int]

    def pack(self, weight: Tensor) -> Tensor:
        """Weights ``[C, D, h, w]``, or ``[C, D]`` of a linear layer, in the order in which oneDNN reads them, for
        `pack_convolutions`."""
        whole = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1))).to_mkldnn()
        onednn: Any = torch._C._nn
        packed: Tensor = onednn.mkldnn_reorder_conv2d_weight(
            whole, self.padding, self.stride, [1, 1], 1, self.shape
        )
        return packed


def pack_convolutions(program: ExportedProgram) -> dict[str, Packing]:
    """Let a program's convolutions expect their weights packed; returns the names of these weights. As
    convolutions come, oneDNN packs all weights at each call."""
    found, graph = {}, program.graph
    names = program.graph_signature.inputs_to_parameters
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.conv2d.default:
            continue
        given: list[Any] = list(node.args)
        x, weight, bias, stride, padding, dilation, groups = given + DEFAULTS[len(given) :]
        if weight.target is torch.ops.aten.reshape.default:  # a linear layer's, as it is
            weight = weight.args[0]
        if weight.name not in names:
            continue
        with graph.inserting_before(node):
            packed = graph.call_function(
                torch.ops.mkldnn._convolution_pointwise.default,
                (x, weight, bias, padding, stride, dilation, groups, "none", [], ""),
            )
        packed.meta.update(node.meta)
        node.replace_all_uses_with(packed)
        graph.erase_node(node)
        found[names[weight.name]] = Packing(padding, stride, list(x.meta["val"].shape))
    program.graph_module.recompile()
    return found


DEFAULTS: list[Any] = [None, None, None, [1, 1], [0, 0], [1, 1], 1]  # of a convolution's arguments


def store_graph(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Compile a program ahead of time into a ``.pt2`` file, without its weights, and `facts` beside it."""
    from torch._inductor import aoti_compile_and_package  # loads the compiler

    options: Any = {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.metadata": dict(facts),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of itself
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load_graph(path: Path) -> Any:
    """What `store_graph` has stored; takes its weights by ``load_constants``. Raises RuntimeError."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path))
