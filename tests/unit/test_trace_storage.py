"""Traces on disk, and runs made again from them."""

import contextlib
import json
import math
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.replay import StoredRun
from sd_scratch.tensors import Trace, storage
from sd_scratch.tensors.edits import ablate, patch, reweight, scale, scale_word, shift
from sd_scratch.tensors.reductions import heads, words
from tests.tiny import tiny_model

GLOBS = ("unet.h", "unet.*.attn2.probs", "text.context")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def record(model, *globs: str, edits=(), **options) -> tuple[Trace, torch.Tensor]:
    with ExitStack() as stack:
        for edited, edit in edits:
            stack.enter_context(model.edit(edited, edit))
        trace = stack.enter_context(model.record(*(globs or GLOBS), **options))
        image = model.generate(
            model.prompt("a cat on a mat"),
            model.noise([3, 4], width=48),
            negative="a dog",
            sampler="ddpm",
            steps=3,
        )
    return trace, image.latent


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory) -> tuple[Trace, Path]:
    trace, _ = record(model)
    return trace, trace.save(tmp_path_factory.mktemp("traces") / "one")


@pytest.fixture
def copy(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored[1], tmp_path / "copy"))


def test_a_trace_comes_back_whole(stored):
    trace, folder = stored
    again = Trace.load(folder)
    assert again.names == trace.names
    for name in trace.names:
        a, b = trace[name], again[name]
        assert torch.equal(a.tensor, b.tensor)
        assert (a.axes, a.calls, a.t, a.branches, a.hw) == (b.axes, b.calls, b.t, b.branches, b.hw)
    assert torch.equal(again["unet.h@1:cond"].tensor, trace["unet.h"].tensor[1, 1])
    assert again.facts == trace.facts


def test_reductions_keep_their_labels_on_disk(model, tmp_path):
    trace, _ = record(
        model, "unet.*.attn2.probs", branch="cond", reduce=[heads(), words("cat", ("a", 2))]
    )
    again = Trace.load(trace.save(tmp_path / "t"))[trace.names[0]]
    assert again.axes == ("call", "batch", "query", "word")
    assert again.words == ("cat", "a (2)")
    assert again.maps().shape == (3, 2, 16, 12, 2)


def test_a_trace_is_read_a_tensor_at_a_time(stored, monkeypatch):
    reads = []
    opened = storage.opened
    monkeypatch.setattr(storage, "opened", lambda path: reads.append(path) or opened(path))
    trace = Trace.load(stored[1])
    reads.clear()
    trace["unet.h@0:cond"]
    assert len(reads) == 1


def test_large_traces_lie_in_several_files(model, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHARD", 100_000)
    trace, _ = record(model)
    folder = trace.save(tmp_path / "t")
    files = sorted(path.name for path in folder.glob("values-*.safetensors"))
    assert files[0] == "values-00001.safetensors" and len(files) > 3
    again = Trace.load(folder)
    assert all(torch.equal(again[name].tensor, trace[name].tensor) for name in trace.names)


def test_nothing_is_overwritten_and_nothing_half_written(stored, tmp_path, monkeypatch):
    trace, folder = stored
    before = sorted(folder.iterdir())
    with pytest.raises(ScratchError, match="there already"):
        trace.save(folder)
    assert sorted(folder.iterdir()) == before

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ScratchError, match="cannot write .* the disk is full"):
        trace.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def damage_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage_kept(folder: Path, **changes) -> None:
    tensors = json.loads((folder / "manifest.json").read_text())["tensors"]
    damage_manifest(folder, tensors={name: {**kept, **changes} for name, kept in tensors.items()})


DAMAGES = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is no trace"),
    "manifest cut": (
        lambda f: (f / "manifest.json").write_text('{"format": "sd_'),
        "not valid JSON",
    ),
    "not a trace": (lambda f: (f / "manifest.json").write_text("[]"), "not an object"),
    "a key twice": (
        lambda f: (f / "manifest.json").write_text('{"run": 1, "run": 2}'),
        "appears twice",
    ),
    "other version": (lambda f: damage_manifest(f, version=9), "another program or version"),
    "no steps": (lambda f: damage_manifest(f, steps=None), "damaged"),
    "wrong axes": (lambda f: damage_manifest(f, tensors={"unet.h": 3}), "damaged"),
    "a moment of no time": (lambda f: damage_manifest(f, steps={"0": [math.nan, 1]}), "damaged"),
    "a moment of texts": (lambda f: damage_manifest(f, steps={"0": ["1", "2"]}), "damaged"),
    "a branch of several": (lambda f: damage_manifest(f, branch="cond"), "more than the branch"),
    "no files": (lambda f: damage_manifest(f, files={}), "in one place alone"),
    "a text for axes": (lambda f: damage_kept(f, axes="batch"), "what is kept of a tensor"),
    "a number for words": (lambda f: damage_kept(f, words=[1]), "what is kept of a tensor"),
    "null for a flag": (lambda f: damage_kept(f, averaged=None), "what is kept of a tensor"),
    "other folder": (lambda f: damage_manifest(f, files={"../x": ["unet.h"]}), "the file name"),
    "file missing": (lambda f: (f / "values-00001.safetensors").unlink(), "damaged"),
    "file cut": (
        lambda f: (f / "values-00001.safetensors").write_bytes(
            (f / "values-00001.safetensors").read_bytes()[:-100]
        ),
        "damaged",
    ),
    "value missing": (
        lambda f: damage_manifest(f, files={"values-00001.safetensors": ["unet.x@0:cond"]}),
        "unet.x@0:cond is missing",
    ),
    "inputs missing": (lambda f: (f / "inputs.safetensors").unlink(), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_told_in_one_line(copy, damage):
    spoil, message = DAMAGES[damage]
    spoil(copy)
    with pytest.raises(ScratchError, match=message) as error:
        Trace.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [({"axes": ["batch"]}, "axes, not"), ({"hw": [9, 9]}, "positions, not")],
)
def test_axes_and_sizes_that_do_not_fit_their_tensor(copy, damage, message):
    damage_kept(copy, **damage)
    trace = Trace.load(copy)
    with pytest.raises(ScratchError, match=message):
        [trace[name].maps() for name in trace.names if ".probs" in name]


def test_ones_own_reduction_has_axes_that_nobody_knows(model, tmp_path):
    trace, _ = record(model, "unet.h", branch="cond", reduce=lambda x: x.mean(dim=1))
    again = Trace.load(trace.save(tmp_path / "t"))
    assert torch.equal(again["unet.h"].tensor, trace["unet.h"].tensor)


# Replay ---------------------------------------------------------------------------------------


def test_a_replay_is_the_same_picture_bit_for_bit(model, stored):
    _, latent = record(model)
    assert torch.equal(model.replay(stored[1]).latent, latent)


def test_a_replay_has_the_edits(model, tmp_path):
    base, plain = record(model, "unet.*.attn2.probs", branch="cond")
    edits = [
        ("text.context", scale_word("cat", 1.5, origin="empty")),
        ("unet.*.attn2.probs", reweight({"mat": 3.0})),
        ("unet.mid_block.*.attn1.z", ablate(heads=[1], by="mean")),
        ("unet.up_blocks.1.*.attn2.probs", patch(base)),
        ("text.encoder.layers.0.mlp.out", scale(1.2)),
    ]
    trace, latent = record(model, "unet.h", edits=edits)
    assert not torch.equal(latent, plain)
    folder = trace.save(tmp_path / "t")
    assert torch.equal(tiny_model().replay(folder).latent, latent)


def test_an_old_trace_edits_what_was_called_eps(model, tmp_path):
    base, _ = record(model, "unet.pred")
    edits = [("unet.pred", patch(base)), ("guidance.pred_cond", scale(1.1))]
    trace, latent = record(model, "unet.h", edits=edits)
    folder = trace.save(tmp_path / "t")
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    assert text.count("unet.pred") > 2 and "guidance.pred_cond" in text
    manifest.write_text(text.replace(".pred", ".eps"))
    assert torch.equal(model.replay(folder).latent, latent)
    manifest.write_text(text.replace('"guidance.pred_cond"', '"guidance.eps_*"'))
    plain = json.loads(manifest.read_text())
    assert plain["edits"][1]["globs"] == ["guidance.eps_*"]
    globs = [globs for globs, *_ in StoredRun.read(folder).edits()]
    assert globs == [["unet.pred"], ["guidance.pred_uncond", "guidance.pred_cond"]]


def test_a_patch_from_an_old_recording_is_no_silent_nothing(model):
    base, _ = record(model, "unet.pred")
    old = Trace({a._replace(name="unet.eps"): value for a, value in base.values.items()})
    assert patch(old).values.keys() == patch(base).values.keys()
    assert shift(old).values.keys() == shift(base).values.keys()


def test_vectors_set_by_hand_are_stored(model, tmp_path):
    prompt = model.prompt("a cat").scale("cat", 1.5)
    noise = model.noise(1)
    with model.record("unet.h") as trace:
        latent = model.generate(prompt, noise, steps=2, guidance=1.0).latent
    assert torch.equal(model.replay(trace.save(tmp_path / "t")).latent, latent)


def test_noise_of_ones_own_is_stored(model, tmp_path):
    noise = model.noise(1)
    noise = noise.with_latent(noise.latent.flip(-1))
    with model.record("unet.h") as trace:
        latent = model.generate("a cat", noise, steps=2, guidance=0.0).latent
    assert torch.equal(model.replay(trace.save(tmp_path / "t")).latent, latent)


def test_other_weights_are_refused(model, stored):
    other = tiny_model()
    other.unet.conv_out.bias.add_(0.01)
    with pytest.raises(ScratchError, match="recorded with weights"):
        other.replay(stored[1])


def test_a_python_function_cannot_be_replayed(model, tmp_path):
    trace, _ = record(model, "unet.h", edits=[("unet.h", lambda x, at: 2 * x)])
    folder = trace.save(tmp_path / "t")
    assert Trace.load(folder)["unet.h"].calls == (0, 1, 2)
    with pytest.raises(ScratchError, match=r"edited by a Python function at unet\.h"):
        model.replay(folder)


def test_a_changed_manifest_is_noticed(model, copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["run"]["guidance"] = 3.0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ScratchError, match="the picture is another one"):
        model.replay(copy)
    del manifest["run"]["seeds"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ScratchError, match="nothing about 'seeds'"):
        model.replay(copy)


@pytest.mark.parametrize("value", [None, 3, "x", [], [None], {"a": None}, {"cond": [{}]}, -1e400])
@pytest.mark.parametrize(
    "key", ["seeds", "prompts", "drawing", "edits", "sampler_options", "control"]
)
def test_facts_of_another_kind_are_one_line_or_read(stored, tmp_path, key, value):
    shutil.copytree(stored[1], tmp_path / "odd")
    path = tmp_path / "odd" / "manifest.json"
    plain = json.loads(path.read_text())
    (plain if key == "edits" else plain["run"])[key] = value
    path.write_text(json.dumps(plain))
    with contextlib.suppress(ScratchError):
        run = StoredRun.read(tmp_path / "odd")
        assert run.seeds is not None and run.prompts is not None and run.drawing is not None
        assert run.edits() is not None
        run.settings(Schedule(ScheduleConfig()))
