import math
from dataclasses import FrozenInstanceError
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest
import torch

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.samplers import SAMPLERS, get_sampler
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError, UsageError
from tests.denoisers import Recorder, gaussian


def test_the_registry_knows_every_sampler_by_its_name() -> None:
    for name, sampler in SAMPLERS.items():
        assert sampler is get_sampler(name)
        assert sampler.name == name == sampler.function.__name__
        assert sampler.description and not set(",:") & set(sampler.metadata_name)
    assert SAMPLERS["pndm"].metadata_name == "PLMS"
    assert SAMPLERS["dpmpp_2m"].metadata_name == "DPM++ 2M"
    with pytest.raises(FrozenInstanceError):
        SAMPLERS["ddim"].name = "other"


def test_options_are_the_keyword_only_arguments() -> None:
    assert SAMPLERS["ddim"].options == {"eta": 0.0}
    assert SAMPLERS["ddpm"].options == {"variance": "fixed_small"}
    assert SAMPLERS["pndm"].options == {"prk": False, "mix": "eps"}
    assert SAMPLERS["euler_a"].options == {"eta": 1.0}
    assert SAMPLERS["lms"].options == {"order": 4}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("dimm", "ddim"), ("PLMS", "pndm"), ("DDPM", "ddpm"), ("Euler a", "euler_a")],
)
def test_an_unknown_sampler_is_answered_with_a_guess_and_the_list(typed: str, meant: str) -> None:
    with pytest.raises(ScratchError, match=f"did you mean {meant}\\?") as error:
        get_sampler(typed)
    assert isinstance(error.value, UsageError)
    assert all(name in str(error.value) for name in SAMPLERS)
    with pytest.raises(ScratchError) as error:
        get_sampler("zzz")
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"etta": 1.0}, "did you mean eta"),
        ("ddim", {"order": 2}, "no option 'order'"),
        ("ddim", {"eta": -0.1}, "0 to 1"),
        ("ddim", {"eta": math.nan}, "eta is a number, not nan"),
        ("ddpm", {"variance": "learned"}, "fixed_small, fixed_large"),
        ("pndm", {"mix": "v"}, "eps, output"),
        ("lms", {"order": 5}, "1, 2, 3, 4"),
        ("euler_a", {"eta": 2.0}, "0 to 1"),
    ],
)
def test_bad_options_are_bad_usage(name: str, options: dict[str, object], message: str) -> None:
    schedule, noise = Schedule(ScheduleConfig()), torch.zeros(1, 4)
    model = Recorder(gaussian(schedule, 0.0, 1.0))
    with pytest.raises(ScratchError, match=message) as error:
        next(SAMPLERS[name].run(model, noise, schedule.ladder(10), noise.clone, **options))
    assert isinstance(error.value, UsageError)
    assert model.timesteps == []


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("steps", [0, 1001])
def test_a_bad_number_of_steps_is_refused(name: str, steps: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 1000"):
        SAMPLERS[name].ladder(Schedule(ScheduleConfig()), steps)


def test_the_documented_table_is_the_registry() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "samplers.md"
    lines = page.read_text("utf-8").splitlines()
    table = dropwhile(lambda line: not line.startswith("| `"), lines)
    rows = [row.split(" | ") for row in takewhile(lambda line: line.startswith("| `"), table)]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in SAMPLERS]
    for row, sampler in zip(rows, SAMPLERS.values(), strict=True):
        assert row[6] == f"{sampler.metadata_name} |"
        assert row[5] == ", ".join(f"`{key}={value}`" for key, value in sampler.options.items())
