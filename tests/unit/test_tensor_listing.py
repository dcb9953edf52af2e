"""The list of tensors as people read it, and the commands that show and store them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import sd_scratch as sd
from sd_scratch.checkpoints.clip import load_clip
from sd_scratch.checkpoints.parts import PARTS
from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import main
from sd_scratch.cli.tensors import clip_infos, without_weights
from sd_scratch.cli.trace import span, word_key
from sd_scratch.config import TINY
from sd_scratch.pipeline.load import load
from sd_scratch.tensors import Trace
from sd_scratch.tensors.listing import MEANINGS, meaning, page
from tests.tiny import tiny_components, tiny_model

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_components(), path)
    return path


def test_the_page_in_the_docs_is_what_the_code_says():
    """To renew it: sd-scratch tensors --markdown -m sd15 > docs/tensors.md"""
    infos = without_weights("sd15", "float32").tensors()
    titles = {name: f"The {part.title}" for name, part in PARTS.items()}
    assert page(infos, titles) == (DOCS / "tensors.md").read_text(encoding="utf-8")


def test_every_tensor_is_described_and_every_description_is_used():
    infos = without_weights("tiny", "float32").tensors()
    clip = clip_infos("scenes-clip", "float32", ()) or []
    of_pictures = replace(TINY, unet=replace(TINY.unet, in_channels=8))  # InstructPix2Pix
    told = tiny_model(of_pictures).tensors()
    used = {meaning(info) for info in [*infos, *clip, *told]}
    assert used == {text for _, text in MEANINGS}


def test_listing_a_model_by_its_configuration(capsys):
    assert main(["tensors", "unet.h", "sampler.t", "-m", "tiny", "-W", "96", "-H", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "unet.h",
        "batch=1",
        "channel=64",
        "height=2",
        "width=6",
        "float32",
        "3,072",
    ]
    assert lines[1].split() == ["sampler.t", "batch=1", "float32", "4"]


def test_listing_as_json_equals_the_python_list(folder, capsys):
    assert main(["tensors", "-m", str(folder), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    infos = tiny_model().tensors()
    assert [(each["name"], each["axes"], each["shape"], each["bytes"]) for each in listed] == [
        (info.name, list(info.axes), list(info.shape), info.bytes) for info in infos
    ]


def test_the_tensors_of_clip_are_listed_like_all_others(capsys):
    heads = "clip.vision_model.encoder.layers.*.self_attn.probs"
    assert main(["tensors", "clip.*_vector", heads, "-m", "scenes-clip", "-q"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-1][0] == "clip.text_vector" and "clip.image_vector" in [line[0] for line in lines]
    assert lines[0][1:5] == ["batch=1", "head=4", "query=65", "key=65"]
    assert main(["tensors", "-m", "scenes-clip", "-W", "64"]) == 2
    assert "CLIP's pictures have a size of their own" in capsys.readouterr().err


def test_the_tensors_of_clip_are_recorded_and_edited_like_all_others():
    clip = load_clip("scenes-clip")
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = clip.network.image_vectors(pictures)
    probs = "clip.vision_model.encoder.layers.1.self_attn.probs"
    with clip.record(probs, "clip.image_vector") as trace, clip.taps.calling():
        vectors = clip.network.image_vectors(pictures)
    assert torch.equal(vectors, plain) and torch.equal(trace["clip.image_vector"].tensor, plain)
    assert trace[probs].tensor.shape == (2, 4, 65, 65)
    assert torch.allclose(trace[probs].tensor.sum(-1), torch.ones(2, 4, 65))
    everything = clip.edit("clip.vision_model.encoder.layers.1.self_attn.z", sd.edits.ablate())
    with everything, clip.taps.calling():
        assert not torch.allclose(clip.network.image_vectors(pictures), plain, atol=1e-2)


def test_half_precision_halves_the_networks_tensors(capsys):
    sizes = [
        sum(i.bytes for i in without_weights("tiny", kind).tensors("unet.*.attn2.*"))
        for kind in ("float32", "bfloat16")
    ]
    assert sizes[0] == 2 * sizes[1]


def test_a_glob_without_a_match_is_told_in_one_line(capsys):
    assert main(["tensors", "-m", "tiny", "unet.*.atn2.probs"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "attn2.probs" in error


# trace ----------------------------------------------------------------------------------------


def trace(folder: Path, *arguments: str) -> int:
    options = ["--steps", "2", "--sampler", "ddim", "-s", "7", "-t", "1", "-q"]
    return main(["trace", "a cat on a mat", "-m", str(folder), *options, *arguments])


def test_tracing_a_run(folder, tmp_path, capsys):
    where = tmp_path / "run"
    globs = ["--tensors", "unet.*.attn2.probs", "--tensors", "unet.h"]
    assert trace(folder, *globs, "-o", str(where), "-b", "2", "--branch", "cond") == 0
    assert capsys.readouterr().out == f"{where}\n"
    stored = Trace.load(where)
    assert stored["unet.h"].tensor.shape == (2, 2, 64, 4, 4)
    assert stored.facts["seeds"] == [7, 8]
    assert sorted(path.name for path in where.glob("*.png")) == ["7.png", "8.png"]
    replayed = load(str(folder)).replay(where)
    assert replayed.to_pil()[1].tobytes() == Image.open(where / "8.png").tobytes()


def test_tracing_words_in_half_precision(folder, tmp_path):
    where = tmp_path / "run"
    options = [
        "--words",
        "cat,a:2",
        "--mean-heads",
        "--mean-calls",
        "--store",
        "float16",
        "--budget",
        "1MB",
    ]
    assert trace(folder, "--tensors", "unet.*.attn2.probs", "-o", str(where), *options) == 0
    stored = Trace.load(where)
    recording = stored[stored.names[0]]
    assert recording.axes == ("batch", "query", "word")
    assert recording.words == ("cat", "a (2)") and recording.calls == (0, 1)
    assert str(recording.tensor.dtype) == "torch.float16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensors", "unet.*.atn2.probs"], "no tensor is named"),
        (["--tensors", "unet.h", "--budget", "much"], "no budget"),
        (["--tensors", "unet.h", "--calls", "a:b"], "is not FROM:TO:EVERY"),
        (["--tensors", "unet.h", "--calls", "60"], "no call 60"),
        (["--tensors", "unet.*.attn2.probs", "--words", "horse"], "no word 'horse'"),
        (["--tensors", "unet.h", "--budget", "1kB"], "more than the budget"),
        (["--tensors", "unet.h", "--mean-heads"], "has no axis 'head'"),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_line(folder, tmp_path, capsys, arguments, message):
    where = tmp_path / "run"
    assert trace(folder, *arguments, "-o", str(where)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not where.exists()


def test_a_folder_with_something_in_it_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert trace(folder, "--tensors", "unet.h", "-o", str(tmp_path)) == 2
    assert "there already" in capsys.readouterr().err


def test_calls_and_words_as_text():
    assert span("3") == 3 and span("-1") == -1
    assert span("::5") == slice(None, None, 5) and span("2:10") == slice(2, 10)
    assert word_key("cat") == "cat" and word_key(" cat:2 ") == ("cat", 2) and word_key(":)") == ":)"
