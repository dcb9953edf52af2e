"""`Recordable`: recording and editing for a model with named tensors."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, TypeVar

from torch import nn

from sd_scratch.errors import UsageError
from sd_scratch.tensors.edit import Editor
from sd_scratch.tensors.record import Recorder
from sd_scratch.tensors.taps import Taps

Settings = ParamSpec("Settings")
Listening = TypeVar("Listening")


def at_its_taps(
    make: Callable[Concatenate[Taps, Settings], Listening],
) -> Callable[Concatenate["Recordable", Settings], Listening]:
    """A method of a model that creates such a listener at its `taps`, with the same settings."""

    def method(
        model: "Recordable", /, *args: Settings.args, **kwargs: Settings.kwargs
    ) -> Listening:
        return make(model.taps, *args, **kwargs)

    update_wrapper(method, make, updated=())
    return method


class Recordable:
    """A model with `taps` in its networks.

    ``with model.record("unet.*.attn2.probs") as trace`` records the tensors that the globs match, and ``with
    model.edit("unet.h", sd.edits.scale(1.1))`` replaces named tensors.
    """

    taps: Taps

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(vars(self).get(name), nn.Module):
            raise UsageError(
                f"{name}: a model's networks stay, as nobody would hear the tensors of another - compile it in place"
                f" with {name}.compile(), or make a model of other components"
            )
        super().__setattr__(name, value)

    record = at_its_taps(Recorder)
    edit = at_its_taps(Editor)
