"""What is read while PyTorch is imported is what is read afterwards; what cannot be is left for later."""

import torch
from safetensors.torch import save_file

from sd_scratch import ahead
from sd_scratch.ahead import read_ahead
from sd_scratch.checkpoints.load import build_components, read_layout
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.checkpoints.save import save_folder
from tests.tiny import tiny_components


def finished(source):
    reading = read_ahead(str(source))
    reading._thread.join()
    return reading


def test_weights_that_were_read_ahead_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "SMALL", 64)
    save_folder(tiny_components(), tmp_path / "model")
    layout = read_layout(tmp_path / "model")
    reading = finished(tmp_path / "model")
    plain, early = (
        build_components(layout, "x", torch.float32, torch.device("cpu"), ahead=each)
        for each in (None, reading)
    )
    assert not reading._found  # all of it was taken
    for name, network in plain.networks.items():
        other = early.networks[name].state_dict()
        assert all(torch.equal(x, other[key]) for key, x in network.state_dict().items())


def test_what_cannot_be_read_ahead_is_left_for_later(tmp_path):
    assert read_ahead(None) is read_ahead("scenes") is read_ahead(str(tmp_path)) is None
    file = tmp_path / "model.safetensors"
    for damage in (b"", b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]", b"\2\0\0\0\0\0\0\0{}"):
        file.write_bytes(damage)
        assert not finished(file)._found


def test_reading_ahead_takes_a_part_of_the_free_memory_alone(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_file({name: torch.ones(32_768) for name in "abc"}, file)  # 128 KiB each
    entries = read_header(file).tensors.values()
    monkeypatch.setattr(ahead, "_free_memory", lambda: 600 << 10)
    reading = finished(file)
    found = [reading.take(file, e.begin, e.end) for e in entries]
    assert [memory is not None for memory in found] == [True, True, False]
    assert reading.take(file, 0, 1) is None
