"""`Recordable`: what a model offers whose tensors have names."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, TypeVar

from sd_scratch.tensors.edit import Editor
from sd_scratch.tensors.record import Recorder
from sd_scratch.tensors.taps import Taps

Settings = ParamSpec("Settings")
Listening = TypeVar("Listening")


def at_its_taps(
    make: Callable[Concatenate[Taps, Settings], Listening],
) -> Callable[Concatenate["Recordable", Settings], Listening]:
    """A method of a model that makes such a listener at its `taps`, with the same settings."""

    def method(
        model: "Recordable", /, *args: Settings.args, **kwargs: Settings.kwargs
    ) -> Listening:
        return make(model.taps, *args, **kwargs)

    update_wrapper(method, make, updated=())
    return method


class Recordable:
    """A model with `taps` in its networks.

    ``with model.record("unet.*.attn2.probs") as trace`` records the tensors that the globs match, and
    ``with model.edit("unet.h", sd.edits.scale(1.1))`` puts other tensors in the place of named ones.
    """

    taps: Taps

    record = at_its_taps(Recorder)
    edit = at_its_taps(Editor)
