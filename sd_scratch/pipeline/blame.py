"""The source of non-finite numbers: weights, or a layer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.adapters.apply import sharing_copy
from sd_scratch.checkpoints.build import dtype_name
from sd_scratch.errors import NotFinite

HALF = (torch.float16, torch.bfloat16)


def weights_at_fault(networks: Mapping[str, nn.Module]) -> str | None:
    """The name of the first weight that holds NaN or infinity."""
    for name, network in networks.items():
        for key, weight in network.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                return f"{name}.{key}"
    return None


@torch.no_grad()
def layer_at_fault(network: nn.Module, *inputs: object) -> str | None:
    """The name of the first layer with a non-finite output for these inputs; None without one. Edits do not
    act: a copy runs, on the same weights."""
    found: list[str] = []
    copy = sharing_copy(network)

    def watch(path: str, layer: nn.Module) -> None:
        def look(_: nn.Module, __: object, output: object) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if not found and not all(o.isfinite().all() for o in outputs if isinstance(o, Tensor)):
                found.append(path)

        layer.register_forward_hook(look)

    for path, layer in copy.named_modules():
        watch(path, layer)
    copy(*inputs)
    return found[0] if found else None


def explain(
    what: str, networks: Mapping[str, nn.Module], part: str, run: nn.Module, *inputs: object
) -> NotFinite:
    """The error for `what` (some non-finite numbers). It blames weights of any of the networks, or a layer of
    `run`, the network `part`, on these inputs; or else the guidance scale."""
    what = f"{what} not finite (NaN or infinity)"
    weight = weights_at_fault(networks)
    if weight is not None:
        return NotFinite(f"{what}: the weights {weight} are not - get the model's files again")
    if not all(i.isfinite().all() for i in inputs if isinstance(i, Tensor)):
        return NotFinite(f"{what}, and neither is what {part} was given - look at what came before")
    layer = layer_at_fault(run, *inputs)
    dtype = next(run.parameters()).dtype
    if layer is None:
        return NotFinite(f"{what}: {part} is in order - lower the guidance scale", "guidance")
    name = f"{part}.{layer}" if layer else part
    if dtype in HALF:
        kind = dtype_name(dtype)
        return NotFinite(f"{what}: {name} overflows in {kind} - compute in float32", "dtype")
    return NotFinite(f"{what}: {name} overflows, whose weights are too large - try another model")
