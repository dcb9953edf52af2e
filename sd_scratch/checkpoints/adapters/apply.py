"""A model with adapters: other weights in the same places, beside a model that keeps its own."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.adapters.changes import Change
from sd_scratch.checkpoints.adapters.control import LoadedControl
from sd_scratch.checkpoints.adapters.embedding import Embedding, extend
from sd_scratch.checkpoints.adapters.few_steps import brought
from sd_scratch.checkpoints.adapters.lora import Lora
from sd_scratch.checkpoints.load import Components
from sd_scratch.networks.layers import computing_type, make_seamless

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA and how much of it: `scale` for the U-Net, `text_scale` for the text encoder."""

    lora: Lora
    scale: float = 1.0
    text_scale: float = 1.0


Adapter = AppliedLora | Embedding | LoadedControl


def with_adapters(base: Components, adapters: Sequence[Adapter]) -> Components:
    """The model `base` with the sum of all changes, each computed from its own weights.

    W' = W + sum of scale * change(W), in fp32 at least, so the order does not matter beyond rounding.
    Only the weights that change are new (in the type that the model computes in, also where `base` keeps
    narrower ones); `base` shares the rest and stays as it is, to the bit. New
    words become rows of a token embedding that is this model's own. A LoRA that was distilled for few
    steps changes what a run starts from.
    """
    loras = [use for use in adapters if isinstance(use, AppliedLora)]
    found = brought([(use.lora.name, use.lora.few_steps, use.scale) for use in loras])
    if found:
        base = replace(base, config=found[1].over(base.config))
    words = [word for use in loras for word in use.lora.embeddings]
    words += [use for use in adapters if isinstance(use, Embedding)]
    unet = _changed(base.unet, "unet", [(use.lora, use.scale) for use in loras])
    text = _changed(base.text, "text", [(use.lora, use.text_scale) for use in loras])
    if not words:
        return replace(base, unet=unet, text=text)
    text, tokenizer = extend(sharing_copy(text), base.tokenizer, words)
    config = replace(base.config, text=text.config)
    return replace(base, config=config, unet=unet, text=text, tokenizer=tokenizer)


def _changed(network: Network, part: str, loras: Sequence[tuple[Lora, float]]) -> Network:
    changes: dict[str, list[tuple[Change, float]]] = defaultdict(list)
    for lora, scale in loras:
        for change in lora.changes:
            root, _, place = change.module.partition(".")
            if root == part and scale:
                changes[place].append((change, scale))
    if not changes:
        return network
    copy, dtype = sharing_copy(network), computing_type(network)
    for place, scaled in changes.items():
        module = copy.get_submodule(place)
        for leaf, of in (("weight", Change.of_weight), ("bias", Change.of_bias)):
            old = getattr(module, leaf, None)
            if not isinstance(old, Tensor):
                continue
            exact = old.to(torch.promote_types(dtype, torch.float32))
            parts = [(scale, of(change, exact)) for change, scale in scaled]
            total = sum((scale * part for scale, part in parts if part is not None), exact)
            if total is not exact:  # `empty_like` keeps the order of the old weight in memory
                new = torch.empty_like(old, dtype=dtype).copy_(total)
                setattr(module, leaf, nn.Parameter(new, requires_grad=False))
    return copy


def sharing_copy(network: Network) -> Network:
    """Copies of the modules on the same weights, without listeners."""
    memo: dict[int, object] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    probes = [m.__dict__["probe"] for m in network.modules() if "probe" in m.__dict__]
    memo |= {id(probe): None for probe in probes}
    copy = deepcopy(network, memo)
    for module in copy.modules():
        module.__dict__.pop("probe", None)
    return copy


def seamless(network: Network, axes: str) -> Network:
    """The network, or with axes one of the same weights that goes on at the opposite edge there."""
    if axes:
        network = sharing_copy(network)
        make_seamless(network, axes)
    return network
