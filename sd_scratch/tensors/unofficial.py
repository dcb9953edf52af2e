"""All that is used of PyTorch's insides, which it may change without a word: nothing public does the same."""

import sys
from contextlib import AbstractContextManager

from torch import nn
from torch._subclasses import FakeTensorMode


def without_numbers() -> AbstractContextManager[object]:
    """Inside, operations make shapes and types and no numbers, also of tensors that have some: on the public
    ``meta`` device these could not be mixed in."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def uncompiled(network: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile`` returns, or the module itself."""
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
    """Let whatever is compiled from now on take its weights for constants. As an option of ``torch.compile`` it
    comes too late: the tracer has made inputs of the weights by then."""
    import torch._inductor.config as inductor  # loads the compiler

    inductor.freezing = True
