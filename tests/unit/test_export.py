"""ONNX graphs against PyTorch, in onnxruntime, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sd_scratch as sd
from sd_scratch.cli import main
from sd_scratch.diffusion.guidance import guide
from sd_scratch.errors import UsageError
from sd_scratch.export.onnx import FILES, export_onnx
from sd_scratch.files import read_file

onnxruntime = pytest.importorskip("onnxruntime")

KEPT = ("unet.h", "unet.mid_block.*.attn2.probs", "unet.mid_block.*.attn1.probs")
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> sd.StableDiffusion:
    model = sd.load(tiny_folder, device="cpu")
    # What a layer runs as on this machine is not exported.
    model.unet.mid_block.resnets[0].conv1.tile_cells = 1
    model.vae.decoder.mid_block.resnets[0].conv1.tile_cells = 1
    return model


@pytest.fixture(scope="module")
def folder(model: sd.StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    export_onnx(model, folder, KEPT, width=32, height=32, half=False)
    return folder


class Exported:
    """The three graphs at work."""

    def __init__(self, folder: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / graph["file"])
            for name, graph in self.manifest["graphs"].items()
        }

    def __call__(self, name: str, **inputs: Any) -> dict[str, Any]:
        rows = self.manifest["graphs"][name]["outputs"]
        arrays = {key: np.asarray(value) for key, value in inputs.items()}
        results = self.sessions[name].run(None, arrays)
        return {row["name"]: torch.from_numpy(x) for row, x in zip(rows, results, strict=True)}


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    return Exported(folder)


def ones(exported: Exported) -> np.ndarray:
    row = next(r for r in exported.manifest["graphs"]["unet"]["inputs"] if r["name"] == "factors")
    return np.ones(row["shape"], np.float32)


def context_of(exported: Exported, model: sd.StableDiffusion) -> torch.Tensor:
    ids = [model.tokenizer.encode(text).ids for text in ("", PROMPT)]
    return exported("text_encoder", token_ids=np.array(ids))["context"]


def test_the_text_is_read_alike(exported: Exported, model: sd.StableDiffusion) -> None:
    prompt = model.prompt(PROMPT)
    context = context_of(exported, model)
    assert torch.allclose(context, torch.cat([prompt.empty, prompt.context]), atol=1e-4)


def test_a_picture_is_the_same(exported: Exported, model: sd.StableDiffusion) -> None:
    noise, guidance, context = model.noise(7, 32, 32), 3.0, context_of(exported, model)

    def ask(x_t: torch.Tensor, t: float) -> torch.Tensor:
        two = torch.cat([x_t, x_t])
        made = exported(
            "unet", x_t=two, t=np.full(2, t, np.float32), context=context, factors=ones(exported)
        )
        return guide(*made["pred"].chunk(2), guidance)

    way = model.way("ddim", 3)
    latent, ladder = noise.start(way.ladder)
    for step in way.sampler.run(ask, latent, ladder, noise.latent.clone):
        latent = step.x_next
    ours = model.generate(PROMPT, noise, sampler="ddim", steps=3, guidance=guidance)
    assert torch.allclose(latent, ours.latent, atol=1e-4)
    image = exported("decoder", latent=latent)["image"]
    assert torch.allclose(image, (ours.decode() * 0.5 + 0.5).clamp(0, 1), atol=1e-4)


def test_the_named_tensors_come_along(exported: Exported, model: sd.StableDiffusion) -> None:
    listed = {row["name"]: row for row in exported.manifest["tensors"]}
    assert set(listed) == {info.name for info in model.tensors(*KEPT)}
    noise, context = model.noise(7, 32, 32), context_of(exported, model)
    with model.record(*KEPT, calls=0) as trace:
        step = next(iter(model.steps(PROMPT, noise, sampler="ddim", steps=3)))
    two = torch.cat([step.x_t, step.x_t])
    made = exported(
        "unet", x_t=two, t=np.full(2, step.t, np.float32), context=context, factors=ones(exported)
    )
    for name, row in listed.items():
        theirs = trace[name].tensor[0]  # [branch, batch, ...]
        assert list(made[name].shape) == row["shape"]
        assert torch.allclose(made[name], theirs.flatten(0, 1), atol=1e-3, rtol=1e-4), name


def test_factors_are_reweighted_words(exported: Exported, model: sd.StableDiffusion) -> None:
    noise, context = model.noise(7, 32, 32), context_of(exported, model)
    (place,) = model.prompt(PROMPT).word("red").positions
    factors = ones(exported)
    factors[1, :, :, place] = 0.0
    with model.edit("unet.*.attn2.probs", lambda x, where: _without(x, place), branch="cond"):
        step = next(iter(model.steps(PROMPT, noise, sampler="ddim", steps=3, guidance=1.0)))
    two = torch.cat([step.x_t, step.x_t])
    made = exported(
        "unet", x_t=two, t=np.full(2, step.t, np.float32), context=context, factors=factors
    )
    plain = exported(
        "unet", x_t=two, t=np.full(2, step.t, np.float32), context=context, factors=ones(exported)
    )
    alpha_bar = torch.tensor(step.alpha_bar)
    eps = made["pred"][1:]
    if exported.manifest["prediction_type"] == "v_prediction":
        eps = alpha_bar.sqrt() * made["pred"][1:] + (1 - alpha_bar).sqrt() * step.x_t
    assert torch.allclose(eps, step.eps, atol=1e-4)
    assert not torch.allclose(made["pred"][1], plain["pred"][1], atol=1e-4)
    assert torch.equal(made["pred"][0], plain["pred"][0])


def _without(x: torch.Tensor, place: int) -> torch.Tensor:
    kept = torch.ones(x.shape[-1])
    kept[place] = 0.0
    return x * kept


def test_half_the_bytes(folder: Path, model: sd.StableDiffusion, tmp_path: Path) -> None:
    from onnx import load_from_string

    from sd_scratch.export.onnx import halve

    proto = load_from_string(read_file(folder / "text_encoder.onnx", 1 << 30))
    whole = proto.ByteSize()
    halve(proto)
    assert proto.ByteSize() < 0.65 * whole
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    ids = np.array([model.tokenizer.encode(text).ids for text in ("", PROMPT)])
    (made,) = session.run(None, {"token_ids": ids})
    assert np.allclose(made[1], model.prompt(PROMPT).context[0], atol=2e-2)


def test_the_manifest_says_what_is_there(exported: Exported, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert exported.manifest["branches"] == ["uncond", "cond"]
    assert len(exported.manifest["alpha_bars"]) == 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tensors", "text.*"], "only its tensors"),
        (["--tensors", "unet.nothing"], "unet.nothing"),
        (["-W", "33"], "33 is not a multiple of 8"),
    ],
)
def test_what_cannot_be_exported_is_said(
    tiny_folder: Path, tmp_path: Path, capsys, words: list[str], said: str
) -> None:
    there = tmp_path / "out"
    assert main(["export", "onnx", "-m", str(tiny_folder), "-o", str(there), *words]) == 2
    assert said in capsys.readouterr().err
    assert not there.exists()


def test_nothing_is_written_over_what_is_there(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    words = ["export", "onnx", "-m", str(tiny_folder), "-o", str(tmp_path), "--overwrite"]
    assert main(words) != 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_model_in_half_precision_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="load it as float32"):
        export_onnx(sd.load(tiny_folder, device="cpu", dtype="bf16"), tmp_path / "a")
