import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd_scratch.checkpoints import keys, model_json, scheduler_json
from sd_scratch.checkpoints.config_json import (
    autoencoder_config,
    autoencoder_json,
    text_encoder_config,
    text_encoder_json,
    unet_config,
    unet_json,
)
from sd_scratch.checkpoints.model_json import model_config, settings_json
from sd_scratch.checkpoints.parts import PARTS
from sd_scratch.checkpoints.scheduler_json import schedule_config
from sd_scratch.config import PRESETS, SD15, SD21, ModelConfig, ScheduleConfig, UNetConfig
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import BETA_SCHEDULES, Schedule
from sd_scratch.diffusion.spacing import TIMESTEP_SPACINGS
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import CONFIG_LIMIT, Fields, parse_json, read_json
from sd_scratch.limits import PREDICTION_TYPES

UNET = unet_json(SD15.unet, 64)
VAE = autoencoder_json(SD15.vae, 512)
TEXT = text_encoder_json(SD15.text)
SCHEDULE = model_json.scheduler_json(SD15)

READERS: dict[str, tuple[Callable[[Fields], Any], dict[str, Any]]] = {
    "unet": (unet_config, UNET),
    "vae": (autoencoder_config, VAE),
    "text": (text_encoder_config, TEXT),
    "schedule": (schedule_config, SCHEDULE),
}


def whole(config: ModelConfig, **settings: Any) -> ModelConfig:
    """A configuration, written as a folder's files and read back."""
    return model_config(
        "a-name",
        {
            name: Fields(part.write(config), f"{part.folder}/config.json")
            for name, part in PARTS.items()
        },
        Fields(
            model_json.scheduler_json(config),
            "scheduler_config.json",
        ),
        Fields(settings_json(config) | settings, "model_index.json"),
    )


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda config: config.name)
def test_what_is_written_is_read_back(config: ModelConfig) -> None:
    assert whole(config) == config
    assert json.loads(json.dumps(unet_json(config.unet, 64))) == unet_json(config.unet, 64)


def test_the_configuration_that_stable_diffusion_1_5_ships() -> None:
    """The file of the published model, which names few keys."""
    fields = Fields(
        {
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "center_input_sample": False,
            "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "in_channels": 4,
            "layers_per_block": 2,
            "mid_block_scale_factor": 1,
            "norm_eps": 1e-05,
            "norm_num_groups": 32,
            "out_channels": 4,
            "sample_size": 64,
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "unet/config.json",
    )
    assert unet_config(fields) == SD15.unet


def test_the_configuration_that_stable_diffusion_2_1_ships() -> None:
    """Of its U-Net the keys that are others than in 1.5, and its text encoder's."""
    unet = {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "upcast_attention": True,
        "use_linear_projection": True,
    }
    assert unet_config(Fields(UNET | unet, "")) == SD21.unet
    text = {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "pad_token_id": 1,
        "projection_dim": 512,
    }
    assert text_encoder_config(Fields(TEXT | text, "")) == SD21.text


def test_attention_head_dim_is_the_number_of_heads() -> None:
    assert unet_config(Fields(UNET | {"attention_head_dim": 5}, "")).num_attention_heads == 5


OTHER_VALUES = [
    ("unet", "dual_cross_attention", True),
    ("unet", "class_embed_type", "timestep"),
    ("unet", "num_class_embeds", 10),
    ("unet", "time_cond_proj_dim", 256),
    ("unet", "resnet_time_scale_shift", "scale_shift"),
    ("unet", "norm_eps", 1e-6),
    ("unet", "freq_shift", 1),
    ("unet", "freq_shift", False),  # equal to 0 in Python, but no number
    ("unet", "flip_sin_to_cos", False),
    ("unet", "transformer_layers_per_block", [1, 1, 1, 2]),
    ("unet", "transformer_layers_per_block", [1, 1, 1]),
    ("unet", "mid_block_type", "UNetMidBlock2D"),
    ("vae", "use_quant_conv", False),
    ("vae", "shift_factor", 0.1),
    ("vae", "mid_block_add_attention", False),
]


@pytest.mark.parametrize(("part", "key", "value"), OTHER_VALUES)
def test_what_the_networks_cannot_express_is_refused_by_its_key(
    part: str, key: str, value: object
) -> None:
    read, good = READERS[part]
    with pytest.raises(ScratchError, match=rf"^some/config.json - `{key}`: .* not Stable Diff"):
        read(Fields(good | {key: value}, "some/config.json"))


@pytest.mark.parametrize(
    ("part", "fixed"),
    [("unet", keys.UNET.refused), ("vae", keys.VAE.refused), ("schedule", keys.SCHEDULER.warned)],
)
def test_the_values_of_stable_diffusion_itself_are_accepted(
    part: str, fixed: dict[str, tuple[object, ...]]
) -> None:
    read, good = READERS[part]
    for key, values in fixed.items():
        for value in values:
            fields = Fields(good | {key: value}, "")
            read(fields)
            assert not fields.warnings


WRONG = [
    ("unet", "in_channels", True, "an integer from 1 to 64"),
    ("unet", "in_channels", 4.0, "an integer"),
    ("unet", "in_channels", "4", "an integer"),
    ("unet", "in_channels", None, "an integer"),
    ("unet", "in_channels", 0, "an integer"),
    ("unet", "in_channels", 10**30, "an integer"),
    ("unet", "layers_per_block", [2, 2, 2, 3], "an integer"),
    ("unet", "attention_head_dim", [5, 0, 20, 20], "a list of 1 to 8 integers"),
    ("unet", "attention_head_dim", 7, "a divisor of the width 320"),
    ("unet", "norm_num_groups", 48, "a divisor of the width 320"),
    ("unet", "block_out_channels", [320, True], "a list of 1 to 8 integers"),
    ("unet", "block_out_channels", 320, "a list"),
    ("unet", "block_out_channels", [], "a list"),
    ("unet", "block_out_channels", [320] * 9, "a list of 1 to 8"),
    ("unet", "block_out_channels", [320, 10**9], "integers from 4 to 16384"),
    ("unet", "down_block_types", ["AttnDownBlock2D"] * 4, "CrossAttnDownBlock2D and DownBlock2D"),
    ("unet", "down_block_types", [["CrossAttnDownBlock2D"]] * 4, "CrossAttnDownBlock2D"),
    ("unet", "down_block_types", ["CrossAttnDownBlock2D"] * 2, "a list of 4 blocks"),
    ("unet", "up_block_types", ["CrossAttnUpBlock2D"] * 4, "in reverse order"),
    ("vae", "scaling_factor", math.nan, "a number from"),
    ("vae", "scaling_factor", math.inf, "a number from"),
    ("vae", "scaling_factor", 0, "a number from"),
    pytest.param("vae", "scaling_factor", 10**400, "a number from", id="huge"),
    ("vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 4, "a list of DownEncoderBlock2D"),
    ("vae", "up_block_types", ["UpDecoderBlock2D"], "a list of 4 blocks"),
    ("text", "vocab_size", -1, "an integer from 1"),
    ("text", "num_attention_heads", 7, "a divisor of the width 768"),
    ("text", "hidden_act", "__import__('os')", "one of quick_gelu, gelu"),
    ("text", "hidden_act", ["gelu"], "one of"),
    ("text", "layer_norm_eps", False, "a number"),
    ("schedule", "beta_schedule", "exotic", "one of linear, scaled_linear, squaredcos_cap_v2"),
    ("schedule", "num_train_timesteps", 0, "an integer from 1"),
    ("schedule", "steps_offset", 1000, "an integer from 0 to 999"),
    ("schedule", "set_alpha_to_one", 1, "true or false"),
    ("schedule", "rescale_betas_zero_snr", 1, "true or false"),
    ("schedule", "trained_betas", 0.1, "a list of"),
    ("schedule", "trained_betas", [0.1, "0.2"], "a number from 0 to 1"),
    ("schedule", "trained_betas", [0.1] * 1001, "a list of 1 to 1000"),
]


@pytest.mark.parametrize(("part", "key", "value", "expected"), WRONG)
def test_wrong_types_and_ranges_are_named_with_their_key(
    part: str, key: str, value: object, expected: str
) -> None:
    read, good = READERS[part]
    with pytest.raises(ScratchError) as caught:
        read(Fields(good | {key: value}, "some/config.json"))
    assert str(caught.value).startswith(f"some/config.json - `{key}` must be ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_absent_keys_mean_the_defaults_of_diffusers_and_transformers() -> None:
    assert unet_config(Fields({}, "")) == UNetConfig(cross_attention_dim=1280)
    assert autoencoder_config(Fields({}, "")).block_out_channels == (64,)
    text = text_encoder_config(Fields({}, ""))
    assert (text.hidden_size, text.num_attention_heads) == (512, 8)
    schedule, *_ = schedule_config(Fields({}, ""))
    assert (schedule.beta_schedule, schedule.beta_start) == ("linear", 0.0001)


@pytest.mark.parametrize(
    ("class_name", "sampler", "spacing", "alpha_to_one"),
    [
        ("PNDMScheduler", "pndm", "leading", False),  # whose skip_prk_steps is false by default
        ("DDIMScheduler", "ddim", "leading", True),
        ("DDPMScheduler", "ddpm", "leading", True),
        ("LMSDiscreteScheduler", "lms", "linspace", True),
        ("SomeScheduler", "pndm", "leading", False),
        ({"os": "system"}, "pndm", "leading", False),
    ],
)
def test_the_scheduler_gives_the_sampler(
    class_name: object, sampler: str, spacing: str, alpha_to_one: bool
) -> None:
    said = schedule_config(Fields({"_class_name": class_name}, ""))
    schedule, name, options, of_sigmas, lacks = said
    assert bool(lacks) == (
        class_name not in scheduler_json.SCHEDULERS if isinstance(class_name, str) else True
    )
    own = {"prk": True, "mix": "output"} if class_name == "PNDMScheduler" else {}
    assert (name, options, of_sigmas) == (sampler, own, None)
    assert schedule.timestep_spacing == spacing
    assert schedule.set_alpha_to_one is alpha_to_one


def test_every_scheduler_stands_for_a_sampler_that_exists() -> None:
    assert {kind.sampler for kind in scheduler_json.SCHEDULERS.values()} <= set(SAMPLERS)


def test_settings_win_over_the_scheduler() -> None:
    config = whole(SD15, sampler="ddim", steps=25, guidance=4.0, name="mine")
    assert (config.sampler, config.steps, config.guidance) == ("ddim", 25, 4.0)
    assert config.name == "mine"


def test_a_model_without_settings_or_scheduler_is_stable_diffusion() -> None:
    parts = {name: Fields(part.write(SD15), "") for name, part in PARTS.items()}
    config = model_config("a-name", parts, None, Fields({}, ""))
    assert config == replace(SD15, name="a-name")


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"steps": True}, {"sampler": "../x"}, {"name": 5}]
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ScratchError, match=rf"model_index.json - `{next(iter(settings))}` must be"):
        whole(SD15, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_attention_dim": 512}, "`cross_attention_dim` must be 768, the text encoder's"),
        ({"out_channels": 8}, "`out_channels` must be 4, the VAE's latent_channels"),
        ({"in_channels": 5}, "`in_channels` must be the VAE's latent_channels, twice that"),
        ({"cross_attention_dim": 1024}, "`cross_attention_dim` must be 768, the text encoder's"),
        ({"addition_embed_type": "text_time"}, "this is Stable Diffusion XL - only"),
        ({"class_embed_type": "projection"}, "this is Stable Diffusion 2.1 unCLIP - only"),
        ({"attention_head_dim": [5, 10]}, "`attention_head_dim` must be one number of heads, or 4"),
        ({"attention_head_dim": [5, 10, 20, 7]}, "`attention_head_dim` must be a divisor of"),
    ],
)
def test_parts_must_fit_each_other(changes: dict[str, object], message: str) -> None:
    parts = {name: Fields(part.write(SD15), "x.json") for name, part in PARTS.items()}
    parts["unet"].data.update(changes)
    with pytest.raises(ScratchError) as caught:
        model_config("", parts, None, Fields({}, ""))
    assert message in str(caught.value)


def test_nothing_that_a_file_names_is_looked_up() -> None:
    strange = {"auto_map": {"AutoModel": "evil--evil.Evil"}, "_class_name": "os.system"}
    assert unet_config(Fields(UNET | strange, "")) == SD15.unet


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', '"b" appears twice'),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b"", "not valid JSON"),
        (b"[1]", "not an object"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_json_that_python_would_accept_or_choke_on(text: bytes, reason: str) -> None:
    with pytest.raises(ScratchError, match=r"^x\.json - ") as caught:
        parse_json(text, "x.json")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_what_is_no_number_is_refused_where_it_is_read(value: bytes) -> None:
    scheduler = parse_json(b'{"lambda_min_clipped": ' + value + b"}", "x.json")
    schedule_config(Fields(scheduler, "x.json"))  # not read
    with pytest.raises(ScratchError, match="`beta_end` must be a number from 0 to 1, found"):
        schedule_config(Fields(parse_json(b'{"beta_end": ' + value + b"}", ""), ""))


def test_a_configuration_is_small(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}" + " " * CONFIG_LIMIT)
    with pytest.raises(ScratchError, match="larger than 1 MB"):
        read_json(file)
    file.write_text("{}" + " " * (CONFIG_LIMIT - 2))
    assert read_json(file) == {}


def test_schedules_of_every_name_can_be_computed() -> None:
    for beta_schedule in BETA_SCHEDULES:
        for spacing in TIMESTEP_SPACINGS:
            for prediction in PREDICTION_TYPES:
                Schedule(
                    ScheduleConfig(
                        beta_schedule=beta_schedule,
                        timestep_spacing=spacing,
                        prediction_type=prediction,
                    )
                )
