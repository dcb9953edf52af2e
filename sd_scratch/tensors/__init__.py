"""Every tensor has a name: list it, record it, edit it."""

from sd_scratch.tensors.edit import At, EditFunction, Editor
from sd_scratch.tensors.names import TensorInfo
from sd_scratch.tensors.record import Recorder
from sd_scratch.tensors.reductions import area, heads, mean_over_steps, words
from sd_scratch.tensors.tapped import Probe, Rows, Tapped
from sd_scratch.tensors.taps import Call, Run, Taps
from sd_scratch.tensors.trace import Address, Recording, Trace

__all__ = [
    "Address",
    "At",
    "Call",
    "EditFunction",
    "Editor",
    "Probe",
    "Recorder",
    "Recording",
    "Rows",
    "Run",
    "Tapped",
    "Taps",
    "TensorInfo",
    "Trace",
    "area",
    "heads",
    "mean_over_steps",
    "words",
]
