"""A new part is a row of the table and a network: everything else follows."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sd_scratch.checkpoints import (
    Components,
    inspect,
    load_components,
    save_folder,
    save_single_file,
)
from sd_scratch.checkpoints.load import empty_components
from sd_scratch.checkpoints.parts import PARTS, Part
from sd_scratch.config import TINY, ModelConfig
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Tapped
from tests.checkpoints import assert_same_weights, edit_json, rewrite
from tests.tiny import tiny_components


@dataclass(frozen=True)
class ToneConfig:
    width: int = 3


class Tone(Tapped):
    """A network that no model has: one linear layer."""

    stepwise = branched = False

    def __init__(self, config: ToneConfig) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.tap("out", self.linear(x))


def tone_config(fields: Fields) -> ToneConfig:
    return ToneConfig(fields.integer("width", 1, 64))


def tone_json(config: ModelConfig) -> dict[str, object]:
    return asdict(config.networks["tone"])


def dry_tone(network: torch.nn.Module, config: ModelConfig) -> None:
    network(torch.zeros(1, config.networks["tone"].width, device="meta"))


ROW = Part(
    name="tone",
    title="tone network",
    folder="tone",
    stem="tone",
    network=Tone,
    read=tone_config,
    write=tone_json,
    dry_run=dry_tone,
    needed=False,
)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Components:
    """A model that has the new part."""
    monkeypatch.setitem(PARTS, "tone", ROW)
    components = tiny_components()
    config = replace(components.config, others={"tone": ToneConfig()})
    torch.nn.init.constant_((tone := Tone(ToneConfig())).linear.weight, 0.5)
    return replace(components, config=config, others={"tone": tone})


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_a_new_part_is_saved_loaded_checked_and_listed(
    whole: Components, layout: str, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    if layout == "folder":
        save_folder(whole, place)
        weights = place / "tone" / "tone.safetensors"
    else:
        weights = place = place.with_suffix(".safetensors")
        save_single_file(whole, place)
    again = load_components(place)
    assert again.config.networks["tone"] == ToneConfig()
    assert list(again.networks) == ["text", "unet", "vae", "tone"]
    assert_same_weights(again, whole)
    assert not again.networks["tone"].training
    report = inspect(place, check=True)
    assert report.parts[-1].name == "tone network"
    assert (report.parts[-1].tensors, report.parts[-1].parameters) == (2, 12)
    assert not report.unknown
    if layout == "folder":
        rewrite(weights, {"linear.bias": None})
        with pytest.raises(ScratchError, match="1 of the tone network's 2 tensors are missing"):
            load_components(place)
        edit_json(place / "tone" / "config.json", width=0)
        with pytest.raises(ScratchError, match=r"tone/config.json - `width` must be an integer"):
            load_components(place)


def test_the_tensors_of_a_new_part_have_names(whole: Components) -> None:
    (info,) = StableDiffusion(whole).tensors("tone.*")
    assert (info.name, info.shape, info.stepwise, info.branched) == (
        "tone.out",
        (1, 3),
        False,
        False,
    )


def test_a_model_without_the_new_part_stays_as_it_was(whole: Components, tmp_path: Path) -> None:
    save_folder(tiny_components(), tmp_path / "model")
    again = load_components(tmp_path / "model")
    assert list(again.networks) == ["text", "unet", "vae"]
    assert "tone" not in json.loads((tmp_path / "model" / "model_index.json").read_text())


def test_a_model_without_numbers_has_every_part(whole: Components) -> None:
    empty = empty_components(whole.config, torch.float16)
    assert {key for network in empty.networks.values() for key in network.state_dict()}
    weight = empty.networks["tone"].state_dict()["linear.weight"]
    assert (weight.device.type, weight.dtype) == ("meta", torch.float16)


def test_what_a_part_says_of_itself_is_its_network() -> None:
    assert [part.stepwise for part in PARTS.values()] == [False, True, False]
    assert [part.branched for part in PARTS.values()] == [True, True, False]
    assert set(TINY.networks) == set(PARTS)
