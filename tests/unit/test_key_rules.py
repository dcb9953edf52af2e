import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.key_rules import (
    RESIDUAL,
    RULES,
    VAE_ATTENTION,
    VAE_RESIDUAL,
    Counts,
    is_ignored,
    is_vae_attention,
    single_file_names,
    usual_name,
)
from sd_scratch.checkpoints.parts import parts_of
from sd_scratch.config import PRESETS, SD15, ModelConfig, UNetConfig


def our_keys(config: ModelConfig) -> list[str]:
    return [
        f"{name}.{key}"
        for name, part in parts_of(config).items()
        for key in empty(part.network, config.networks[name]).state_dict()
    ]


def published_pairs(data: Path) -> Iterator[tuple[str, str]]:
    """Our name and the single file's for every tensor of SD 1.x, from the verified table."""
    with (data / "keys" / "compvis_to_diffusers.tsv").open() as file:
        for theirs, ours, *_ in csv.reader(file, delimiter="\t"):
            if not theirs.startswith("#"):
                yield ours.replace("text_encoder.text_model.", "text."), theirs


def test_every_published_name_maps_both_ways(shared_data: Path) -> None:
    published = dict(published_pairs(shared_data))
    assert len(published) == 1131
    names = single_file_names(published, SD15)
    assert names == published
    back = {theirs: ours for ours, theirs in names.items()}
    assert back == {theirs: ours for ours, theirs in published.items()}


def test_every_tensor_of_a_published_file_is_used_or_ignored(shared_data: Path) -> None:
    lines = (shared_data / "keys" / "compvis_v1_keys.txt").read_text().splitlines()
    in_file = {line.split("\t")[0] for line in lines if not line.startswith("#")}
    used = set(single_file_names(our_keys(SD15), SD15).values())
    assert used < in_file
    assert all(is_ignored(key) for key in in_file - used)
    assert len(in_file - used) == 13  # the schedule's twelve tables, and the position ids
    assert not any(is_ignored(key) for key in used)


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda config: config.name)
def test_names_are_one_to_one(config: ModelConfig) -> None:
    ours = our_keys(config)
    theirs = single_file_names(ours, config).values()
    assert len(set(theirs)) == len(ours)
    assert not set(theirs) & set(ours)


def test_blocks_are_counted_through_for_any_number_of_levels() -> None:
    config = ModelConfig(
        unet=UNetConfig(
            block_out_channels=(32, 32, 64),
            cross_attention=(False, True, False),
            layers_per_block=1,
        )
    )
    ours = [
        "unet.down_blocks.1.attentions.0.proj_in.weight",
        "unet.down_blocks.1.downsamplers.0.conv.bias",
        "unet.up_blocks.0.upsamplers.0.conv.weight",
        "unet.up_blocks.1.upsamplers.0.conv.weight",
        "unet.up_blocks.2.resnets.1.conv_shortcut.weight",
    ]
    assert list(single_file_names(ours, config).values()) == [
        "model.diffusion_model.input_blocks.3.1.proj_in.weight",
        "model.diffusion_model.input_blocks.4.0.op.bias",
        "model.diffusion_model.output_blocks.1.1.conv.weight",
        "model.diffusion_model.output_blocks.3.2.conv.weight",
        "model.diffusion_model.output_blocks.5.0.skip_connection.weight",
    ]


def test_the_table_is_small_and_used_whole() -> None:
    assert len(RULES) + len(RESIDUAL) + len(VAE_RESIDUAL) + len(VAE_ATTENTION) <= 42
    ours = our_keys(SD15)
    idle = [rule for rule in RULES if not any(rule.apply(key, Counts.of(SD15)) for key in ours)]
    assert not idle


def test_text_keys_without_their_prefix_get_it() -> None:
    full = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.bias"
    assert usual_name(full) == full
    assert usual_name(full.replace("text_model.", "")) == full
    other = "model.diffusion_model.out.0.bias"
    assert usual_name(other) == other


def test_only_the_attention_of_the_autoencoder_is_a_convolution_there() -> None:
    keys = [key for key in our_keys(SD15) if is_vae_attention(key)]
    assert len(keys) == 8
    assert all(".attentions.0.to_" in key for key in keys)


@pytest.mark.parametrize(
    ("key", "ignored"),
    [
        ("betas", True),
        ("posterior_mean_coef2", True),
        ("model_ema.diffusion_modelinput_blocks00weight", True),
        ("model_ema.decay", True),
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", True),
        ("cond_stage_model.logit_scale", False),
        ("model.diffusion_model.out.0.bias", False),
        ("xbetas", False),
    ],
)
def test_what_is_ignored(key: str, ignored: bool) -> None:
    assert is_ignored(key) is ignored
