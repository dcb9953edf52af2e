"""The engine in the tab, its parts run by Node, beside the package itself."""

import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sd_scratch as sd
from sd_scratch.diffusion.noise import NoiseSource
from sd_scratch.json_file import Fields
from sd_scratch.page.edits import read_edit

NODE = shutil.which("node")
TAB = Path(sd.__file__).parent / "page" / "static" / "tab"
ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "scripts" / "page" / "node_modules" / "onnxruntime-web" / "dist"

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed (nodejs)")
pytest.importorskip("onnxscript")

PROMPT = "a large red star on a blue background"
TEXTS = (
    PROMPT,
    "",
    "A  RED\tstar, isn't it? 12 stars!",
    "caf\u00e9 e\u0301 \u4e2d\u6587 \U0001f600",
    "one " * 60,
    "<|endoftext|>a",
)


@pytest.fixture(scope="module")
def model() -> sd.StableDiffusion:
    return sd.load("scenes", device="cpu")


@pytest.fixture(scope="module")
def exported(model: sd.StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sd_scratch.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("tab") / "scenes"
    export_onnx(model, folder, ["unet.mid_block.*.attn2.probs"])
    return folder


@pytest.fixture(scope="module")
def ask(exported: Path):
    """What the engine answers to wishes; a file of the runtime is there, or the test is skipped."""

    def ask(**wishes: Any) -> dict[str, Any]:
        if "runs" in wishes and not RUNTIME.is_dir():
            pytest.skip("onnxruntime-web is not installed - run: npm ci --prefix scripts/page")
        done = subprocess.run(
            [str(NODE), str(Path(__file__).with_name("tab.mjs")), TAB, exported, RUNTIME],
            input=json.dumps(wishes).encode(),
            capture_output=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    return ask


def test_texts_have_the_same_tokens(ask, model: sd.StableDiffusion) -> None:
    for text, theirs in zip(TEXTS, ask(texts=TEXTS)["texts"], strict=True):
        ours = model.tokenizer.encode(text)
        assert theirs["ids"] == list(ours.ids), text
        places = [list(word.positions) for word in ours.words]
        assert [word["positions"] for word in theirs["words"]] == places, text


@pytest.mark.parametrize("count", [16, 256, 1000])
def test_a_seed_is_the_same_noise(ask, count: int) -> None:
    seeds = [0, 1, 7, 2**32 - 1, 2**32 + 5, 2**64 - 1]
    answers = ask(seeds=[[str(seed), count] for seed in seeds])["noise"]
    for seed, theirs in zip(seeds, answers, strict=True):
        ours = NoiseSource([seed]).draw((count,))[0]
        assert np.allclose(theirs, ours, atol=2e-6), seed


def test_the_ladder_is_the_same(ask, model: sd.StableDiffusion) -> None:
    counts = [1, 8, 25, 999]
    for steps, rungs in zip(counts, ask(steps=counts)["ladders"], strict=True):
        ours = model.way("ddim", steps).ladder
        assert [rung["t"] for rung in rungs] == list(ours.timesteps)
        assert np.allclose([rung["alphaBar"] for rung in rungs], ours.alpha_bars[: len(rungs)])


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_other_samplers_are_the_same(ask, model: sd.StableDiffusion, sampler: str) -> None:
    wish = {"prompt": PROMPT, "seed": 7, "steps": 6, "guidance": 4.0, "sampler": sampler}
    (made,) = ask(runs=[wish])["runs"]
    noise = model.noise(7)
    image = model.generate(PROMPT, noise, sampler=sampler, steps=6, guidance=4.0)
    ours = np.asarray(image.to_pil()[0], dtype=int)
    theirs = np.array(made["pixels"]).reshape(64, 64, 4)[..., :3]
    assert (np.abs(theirs - ours) <= 2).mean() >= 0.99


def test_a_picture_in_the_tab_is_the_picture(ask, model: sd.StableDiffusion) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.probs"
    wish = {"prompt": PROMPT, "seed": 7, "steps": 8, "guidance": 4.0, "tensors": [name]}
    (plain,) = ask(runs=[wish])["runs"]
    image = model.generate(PROMPT, model.noise(7), sampler="ddim", steps=8, guidance=4.0)
    picture = np.asarray(image.to_pil()[0], dtype=int)
    theirs = np.array(plain["pixels"]).reshape(64, 64, 4)[..., :3]
    within = (np.abs(theirs - picture) <= 2).mean()
    assert within >= 0.99
    kept = plain["seen"][0]["tensors"][name]
    assert kept["shape"][0] == 2 and len(plain["seen"]) == 8
    assert (
        torch.tensor(kept["data"]).reshape(kept["shape"]).sum(-1).allclose(torch.ones(1), atol=1e-3)
    )


def test_a_model_without_a_text_encoder_is_named() -> None:
    program = f"""
      const {{ TabEngine }} = await import({(TAB / "engine.js").as_uri()!r});
      const files = async () => ({{ ok: true, json: async () => ({{ graphs: {{ unet: {{}}, decoder: {{}} }} }}) }});
      await TabEngine.load(null, "model", files).catch((error) => console.log(error.message));
    """
    command = [str(NODE), "--input-type=module", "-e", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "the model has no text encoder", done.stderr


PROBS, CONTEXT = "unet.*.attn2.probs", "text.context"
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.z"
EDITS: list[list[dict[str, Any]]] = [  # those of one run
    [
        {"tensors": PROBS, "edit": "reweight", "words": ["red", "star"], "factors": [0, 2]},
        {"tensors": "unet.up_*.attn2.probs", "edit": "scale", "factor": 1.5, "branch": "uncond"},
        {"tensors": CONTEXT, "edit": "scale_word", "word": "blue", "factor": 2, "origin": "empty"},
    ],
    [
        {"tensors": LAYER, "edit": "ablate", "heads": [0, 2]},
        {"tensors": "unet.*.attn2.z", "edit": "set", "value": 0, "steps": [3, 3]},
        {"tensors": PROBS, "edit": "ablate", "words": ["large"], "steps": [0, 1]},
        {"tensors": CONTEXT, "edit": "add", "value": 0.1, "branch": "cond"},
    ],
    [
        {"tensors": CONTEXT, "edit": "scale_word", "word": "red", "factor": 0.3},
        {"tensors": CONTEXT, "edit": "ablate", "words": ["star"]},
        {"tensors": CONTEXT, "edit": "scale", "factor": 0.9},
    ],
]


def test_edits_do_in_the_tab_what_they_do_in_python(ask, model: sd.StableDiffusion) -> None:
    wish = {"prompt": PROMPT, "seed": 7, "steps": 4, "guidance": 4.0}
    plain, *runs = ask(runs=[wish, *({**wish, "edits": edits} for edits in EDITS)])["runs"]
    for edits, made in zip(EDITS, runs, strict=True):
        with ExitStack() as stack:
            for each in edits:
                edit = read_edit(Fields(dict(each), "edit"))
                calls = slice(edit.steps[0], edit.steps[1] + 1) if edit.steps else None
                where = {"calls": calls, "branch": edit.branch}
                stack.enter_context(model.edit(edit.tensors, edit.edit, **where))
            image = model.generate(PROMPT, model.noise(7), sampler="ddim", steps=4, guidance=4.0)
        ours = np.asarray(image.to_pil()[0], dtype=int)
        theirs, bare = (
            np.array(each["pixels"]).reshape(64, 64, 4)[..., :3] for each in (made, plain)
        )
        assert (np.abs(theirs - ours) <= 2).mean() >= 0.99, edits
        assert (np.abs(theirs - bare) > 2).mean() > 0.02, edits


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        ({"tensors": "unet.h", "edit": "scale", "factor": 2}, "sd-scratch page"),
        ({"tensors": "unet.*", "edit": "scale", "factor": 2}, "sd-scratch page"),
        ({"tensors": PROBS, "edit": "add", "value": 2}, "multiplies"),
        ({"tensors": LAYER, "edit": "ablate", "words": ["red"]}, "attn2.probs"),
        ({"tensors": PROBS, "edit": "ablate", "heads": [0], "by": "mean"}, "by"),
        ({"tensors": PROBS, "edit": "reweight", "words": ["cat"], "factors": [1]}, "no word"),
        ({"tensors": CONTEXT, "edit": "scale", "factor": 2, "steps": [0, 1]}, "once"),
        ({"tensors": PROBS, "edit": "swap", "first": "red", "second": "star"}, "no edit"),
    ],
)
def test_what_the_tab_cannot_edit_is_said(ask, edit: dict[str, Any], part: str) -> None:
    (answer,) = ask(edits=[edit])["edits"]
    assert part in answer
