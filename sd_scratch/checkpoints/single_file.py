"""The single-file layout of CompVis and A1111: one file, safetensors or a pickle, with all three networks.

    model.diffusion_model.*                       the U-Net
    first_stage_model.*                           the VAE
    cond_stage_model.transformer.text_model.*     the text encoder; cond_stage_model.model.* in 2.x

There is no configuration in it, except in files that this package wrote: their header's metadata holds
what the files of a folder would.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.config_json import LATENT_SIZE
from sd_scratch.checkpoints.family import CONV_IN, SD2_CONTEXT, check_family, unet_context
from sd_scratch.checkpoints.infer import Shapes
from sd_scratch.checkpoints.key_rules import (
    TEXT,
    UNET,
    VAE,
    averaged_name,
    is_ignored,
    of_average,
    single_file_names,
    usual_name,
)
from sd_scratch.checkpoints.keys import MARKERS, METADATA
from sd_scratch.checkpoints.layout import Layout, StoredPart
from sd_scratch.checkpoints.model_json import (
    model_config,
    model_json,
    scheduler_json,
    settings_json,
    with_placeholders,
)
from sd_scratch.checkpoints.open_clip import PADDING, UNUSED, is_open_clip, usual_text
from sd_scratch.checkpoints.parts import PARTS, parts_of
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.safetensors_file import Header, ScaledTensor, StoredTensor
from sd_scratch.config import ModelConfig, ScheduleConfig, UNetConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.json_file import Fields, parse_json

METADATA_KEY = "sd_scratch"
# What the metadata of https://github.com/Stability-AI/ModelSpec calls the three predictions.
MODELSPEC = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "sample": "sample",
}
LARGE_LATENT_SIZE = 96  # of the models of 2.x that predict v
# Stable Diffusion 2.x comes in both kinds, with the same names and shapes. In those that predict v this
# bias spreads further, which is what ComfyUI tells them by.
TELLING, SPREAD = f"{UNET}.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
SCALES, INPUT_SCALES = (".scale_weight", ".weight_scale"), (".scale_input", ".input_scale")


def read_single_file(
    path: Path, name: str = "", *, may_lack: Container[str] = (), ema: bool = False
) -> Layout:
    """Read a single file's header; `name` is what the model is called, by default as the file is.

    `may_lack` names parts that the file need not have, and `ema` asks for the averaged copy of the U-Net's
    weights, which is read without being asked for where there is no other. Raises ScratchError for a damaged file, and for any family but Stable Diffusion 1.x and 2.x by
    its name; UsageError where there is no such copy.
    """
    header = read_weights(path)
    tensors = usual_tensors(header)
    notes = [header.note] if header.note else []
    if not any(key.startswith(f"{UNET}.") for key in tensors):
        named = {of_average(key): tensor for key, tensor in tensors.items()}
        notes += ["EMA weights, there are no others"] if named.keys() != tensors.keys() else []
        tensors = named
    elif ema:
        tensors = averaged(path, tensors)
        notes.append("EMA weights")
    check_family(path, tensors, may_lack)
    warnings: list[str] = []
    lacks: list[str] = []
    config = _config(header, tensors, name or path.stem, warnings, lacks, may_lack)

    parts: dict[str, StoredPart] = {}
    used: set[str] = set()
    for part_name, part in parts_of(config).items():
        part_config = config.networks[part_name]
        wanted = empty(part.network, part_config).state_dict()
        names = single_file_names((f"{part_name}.{key}" for key in wanted), config)
        found = {ours: theirs for ours, theirs in names.items() if theirs in tensors}
        used.update(found.values())
        stored = {
            ours.removeprefix(f"{part_name}."): tensors[theirs] for ours, theirs in found.items()
        }
        if not stored and part_name in may_lack:
            continue
        parts[part_name] = StoredPart(part, part_config, stored)
    rest = [key for key in tensors if key not in used and not MARKERS.knows(key)]
    known = [key for key in rest if is_ignored(key) or UNUSED.fullmatch(key)]
    return Layout(
        kind="single file",
        path=path,
        config=config,
        parts=parts,
        ignored=tuple(known),
        unknown=tuple(key for key in rest if key not in set(known)),
        notes=tuple(notes),
        warnings=tuple(warnings),
        lacks=tuple(lacks),
        padding=PADDING if is_open_clip(config.text) else None,
    )


def usual_tensors(header: Header) -> dict[str, StoredTensor]:
    """A single file's tensors by the layout's own names, eight-bit weights with their scales.

    Raises ScratchError where two tensors would have one name, or a scale fits no weight.
    """
    tensors: dict[str, StoredTensor] = {}
    for key, tensor in usual_text(header.tensors).items():
        name = usual_name(key)
        if name in tensors:
            raise ScratchError(
                f"{header.path} - {key} and {tensors[name].key} are the same tensor, twice"
            )
        tensors[name] = tensor
    for name in [name for name in tensors if name.endswith(SCALES)]:
        scale, weight = tensors.pop(name), name.rpartition(".")[0] + ".weight"
        scaled = tensors.get(weight)
        if scaled is None or scale.numel not in (1, scaled.shape[0]) or not scale.is_floating:
            raise ScratchError(
                f"{header.path} - the scale {name} fits no weight - quantised in a way unknown here"
            )
        tensors[weight] = ScaledTensor(**vars(scaled), scale=scale)
    # What activations were to be scaled by; here they are computed in full precision.
    return {name: t for name, t in tensors.items() if not name.endswith(INPUT_SCALES)}


def averaged(path: Path, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors with the exponential moving average of the U-Net's in the place of these: CompVis keeps
    it under ``model_ema.`` and the names without their dots. Raises UsageError where it is not whole."""
    copies = {key: averaged_name(key) for key in tensors if key.startswith(f"{UNET}.")}
    missing = [copy for copy in copies.values() if copy not in tensors]
    if missing:
        raise UsageError(
            f"{path} - holds no EMA weights ({len(missing)} of {len(copies)} are missing) - most files do"
            " not: leave it out"
        )
    return {**tensors, **{key: tensors[copy] for key, copy in copies.items()}}


def config_metadata(config: ModelConfig) -> dict[str, str]:
    """A model's configuration for the header of a single file, as `read_single_file` reads it back."""
    parts = {
        **model_json(config),
        "scheduler": scheduler_json(config),
        "settings": settings_json(config),
    }
    return {METADATA_KEY: json.dumps(parts)}


def _config(
    header: Header,
    tensors: Mapping[str, StoredTensor],
    name: str,
    warnings: list[str],
    lacks: list[str],
    may_lack: Container[str],
) -> ModelConfig:
    """From the header's metadata where this package wrote it, else from the tensors' shapes; both are
    read by the rules for a folder's files."""
    where = f"{header.path} (header)"
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        schedule = _schedule(header, tensors, warnings, lacks)
        inferred = _inferred(Shapes(header.path, tensors), schedule, may_lack)
        parts = {part: Fields(data, where) for part, data in inferred.items()}
        config = model_config(name, parts, None, Fields({}, where))
        sampler = "ddim" if _predicts_v_in_2(config.unet, schedule) else config.sampler
        return replace(config, schedule=schedule, sampler=sampler)
    fields = Fields(parse_json(text.encode(), where), where, warnings)
    parts = {
        part.name: fields.nested(part.folder)
        for part in PARTS.values()
        if part.needed or part.folder in fields.data
    }
    scheduler = fields.nested("scheduler") if "scheduler" in fields.data else None
    return model_config(name, parts, scheduler, fields.nested("settings"))


def _predicts_v_in_2(unet: UNetConfig, schedule: ScheduleConfig) -> bool:
    """Whether a model is of those of 2.x that make pictures of 768 pixels, and come with DDIM."""
    return unet.cross_attention_dim == SD2_CONTEXT and schedule.prediction_type == "v_prediction"


def _inferred(
    shapes: Shapes, schedule: ScheduleConfig, may_lack: Container[str]
) -> dict[str, dict[str, Any]]:
    """The parts' configurations as JSON, read off the shapes, with the sizes of Stable Diffusion."""
    roots = {"unet": UNET, "vae": VAE, "text": TEXT}
    configs = {
        name: part.infer(shapes)
        for name, part in PARTS.items()
        if part.infer
        and not (name in may_lack and not any(k.startswith(roots[name]) for k in shapes.tensors))
    }
    configs = with_placeholders(configs)
    config = ModelConfig.of(configs)
    cells = LARGE_LATENT_SIZE if _predicts_v_in_2(config.unet, schedule) else LATENT_SIZE
    config = replace(config, sample_size=cells * config.vae.downscale)
    return {name: part.write(config) for name, part in parts_of(config).items()}


def _schedule(
    header: Header, tensors: Mapping[str, StoredTensor], warnings: list[str], lacks: list[str]
) -> ScheduleConfig:
    """Stable Diffusion's, changed as marker tensors and the metadata say; `lacks` gets what they say of the
    prediction that cannot be had."""
    where = f"{header.path} (header)"
    METADATA.check(metadata := Fields(dict(header.metadata), where, warnings))
    markers = Fields({key: "there" for key in tensors if MARKERS.knows(key)}, where, warnings)
    MARKERS.check(markers)
    kind = metadata.data.get("modelspec.prediction_type")
    if kind is not None and kind not in MODELSPEC:
        metadata.lack("modelspec.prediction_type", "is not supported")
    lacks += [*markers.lacks, *metadata.lacks]
    said = "v_prediction" if "v_pred" in tensors else MODELSPEC.get(str(kind))
    if said is None and unet_context(tensors) == SD2_CONTEXT:
        said = _prediction_of_2(header, tensors, warnings)
    return ScheduleConfig(
        prediction_type=said or "epsilon", rescale_betas_zero_snr="ztsnr" in tensors
    )


def _prediction_of_2(
    header: Header, tensors: Mapping[str, StoredTensor], warnings: list[str]
) -> str:
    """What a file of Stable Diffusion 2.x predicts that does not say so; what it is taken for is warned of."""
    if tensors[CONV_IN].shape[1] != 4:
        return "epsilon"  # as all of 2.x that paint over pictures
    spread = float(tensors[TELLING].read().float().std(correction=0)) if TELLING in tensors else 0.0
    kind = "v_prediction" if spread > SPREAD else "epsilon"
    warnings.append(
        f"{header.path} - does not say whether it predicts epsilon or v, as files of Stable Diffusion 2.x"
        f" may: taken for {kind} by its weights - if pictures are noise, give the other prediction type"
    )
    return kind
