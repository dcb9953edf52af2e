"""Every tensor has a name: list it, record it, edit it, store it, replay it.

tapped       the tap in a network's forward pass, and the probe behind it
names        the list of all names, found by a forward pass without numbers
taps the switchboard: which listener hears which tensor, in which call
recordable `record` and `edit` of a model with named tensors
record `Recorder`; `reductions` make its tensors smaller, and a `Trace` holds them
edit         `Editor`; `edits` are ready-made ones
storage      traces on disk
unofficial every use of PyTorch's internals
"""

from sd_scratch.tensors import edits, reductions
from sd_scratch.tensors.edit import At, EditFunction, Editor
from sd_scratch.tensors.edits import Follow, ReadyEdit, edit_from_plain
from sd_scratch.tensors.names import TensorInfo
from sd_scratch.tensors.record import Recorder
from sd_scratch.tensors.recordable import Recordable
from sd_scratch.tensors.tapped import Probe, Rows, Tapped
from sd_scratch.tensors.taps import Call, Run, Taps
from sd_scratch.tensors.trace import Address, Recording, Trace
