"""The diffusers folder: one sub-folder per network, each with its configuration and its weights.

    model_index.json                          optional; only this package's own settings are read
    unet/          config.json, diffusion_pytorch_model.safetensors
    vae/           config.json, diffusion_pytorch_model.safetensors
    text_encoder/  config.json, model.safetensors
    tokenizer/     vocab.json + merges.txt, or tokenizer.json      optional
    scheduler/     scheduler_config.json                           optional

Weights may be cut into shards with an index, or exist only as an fp16 variant. The networks here carry
diffusers' and transformers' names, so almost nothing is renamed.
"""

import re
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from sd_scratch.checkpoints import keys
from sd_scratch.checkpoints.family import ONLY
from sd_scratch.checkpoints.folder_files import choose_pickle, choose_weights, plain_names
from sd_scratch.checkpoints.layout import Layout, StoredPart
from sd_scratch.checkpoints.model_json import model_config
from sd_scratch.checkpoints.parts import PARTS, Part, parts_of
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, read_json

INDEX_LIMIT = 16 << 20  # bytes
POSITIONS = "embeddings.position_ids"  # 0..76
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")

# The autoencoder's attention as diffusers named it in 2022.
OLD_VAE_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_VAE_KEY = re.compile(r"(.*\.attentions\.0\.)(query|key|value|proj_attn)(\.weight|\.bias)")


def read_folder(path: Path, name: str = "", *, may_lack: Container[str] = ()) -> Layout:
    """Read a diffusers folder's configurations and the headers of its weights.

    `name` is what the model is called, by default as the folder is; `may_lack` names parts that it need not
    have. Raises ScratchError naming the file and the key for anything missing, malformed, or of another
    kind than Stable Diffusion 1.x and 2.x.
    """
    _check_family(path, may_lack)
    present = {name for name, part in PARTS.items() if (path / part.folder).is_dir()}
    wanted = present | {n for n, part in PARTS.items() if part.needed and n not in may_lack}
    scheduler_file = path / "scheduler" / "scheduler_config.json"
    warnings: list[str] = []
    index = _fields(path / "model_index.json", warnings, optional=True)
    keys.INDEX.check(index)
    scheduler = _fields(scheduler_file, warnings) if scheduler_file.is_file() else None
    if scheduler is not None:
        scheduler.data |= _scheduler_class(index)
    config = model_config(
        name or path.name,
        parts={
            name: _fields(path / part.folder / "config.json", warnings)
            for name, part in PARTS.items()
            if name in wanted
        },
        scheduler=scheduler,
        settings=index.nested("sd_scratch"),
    )

    parts: dict[str, StoredPart] = {}
    ignored: list[str] = []
    notes: list[str] = []
    for name, part in parts_of(config).items():
        if name not in wanted:
            continue
        stored, note = weights_of(path, part)
        tensors = {our_name(part, key): tensor for key, tensor in stored.items()}
        constants = [key for key in tensors if key.endswith("position_ids")]  # 0..76
        for key in constants:
            del tensors[key]
        ignored += [f"{name}.{key}" for key in constants]
        parts[name] = StoredPart(part, config.networks[name], tensors)
        notes += [note] if note else []

    tokenizer = path / "tokenizer"
    for name in TOKENIZER_FILES:
        keys.TOKENIZER.check(_fields(tokenizer / name, warnings, optional=True))
    return Layout(
        kind="folder",
        path=path,
        config=config,
        parts=parts,
        ignored=tuple(ignored),
        notes=tuple(notes),
        warnings=tuple(warnings),
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def read_part_folder(folder: Path, part: Part) -> StoredPart:
    """A network from the folder that holds its ``config.json`` and its weights; of a whole CLIP the text
    encoder alone."""
    if not (folder / "config.json").is_file():
        raise ScratchError(
            f"{folder} - no {part.title} is in it - its folder has a config.json beside its weights, a whole"
            f" model's has it in {part.folder}/"
        )
    config = part.read(_fields(folder / "config.json", []))
    stored, _ = weights_of(folder.parent, replace(part, folder=folder.name))
    if any(key.startswith("vision_model.") for key in stored):
        stored = {key: tensor for key, tensor in stored.items() if key.startswith(part.prefix)}
    tensors = {our_name(part, key): tensor for key, tensor in stored.items()}
    return StoredPart(part, config, {k: t for k, t in tensors.items() if k != POSITIONS})


def weights_of(path: Path, part: Part) -> tuple[dict[str, StoredTensor], str]:
    """A network's tensors by their names in the files, and a remark where a variant was used."""
    present = {f"{part.folder}/{file.name}" for file in (path / part.folder).iterdir()}
    chosen = choose_weights(present, part) or choose_pickle(present, part)
    if not chosen:
        raise _no_weights(path / part.folder, part.stem)
    plain = chosen[0] in {f"{part.folder}/{name}" for name in plain_names(part)}
    note = "" if plain else f"{chosen[0]} used"
    if not chosen[0].endswith(".json"):
        return dict(read_weights(path / chosen[0]).tensors), note
    return _read_shards(path / chosen[0]), note


def our_name(part: Part, key: str) -> str:
    """A key of the folder's files as the network here names it."""
    old = OLD_VAE_KEY.fullmatch(key) if part.name == "vae" else None
    return f"{old[1]}{OLD_VAE_NAMES[old[2]]}{old[3]}" if old else key.removeprefix(part.prefix)


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    """All tensors that an index lists, each from the shard that it names."""
    weight_map = Fields(read_json(index, INDEX_LIMIT), str(index)).nested("weight_map").data
    tensors: dict[str, StoredTensor] = {}
    for name in sorted({str(shard) for shard in weight_map.values()}):
        if not re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name):
            raise ScratchError(f"{index} - names a shard {name[:60]!r} outside its folder")
        if not (index.parent / name).is_file():
            raise ScratchError(
                f"{index} - names a shard {name}, which is not there - download the folder again"
            )
        header = read_weights(index.parent / name)
        for key, tensor in header.tensors.items():
            if weight_map.get(key) != name:
                raise ScratchError(f"{index} - does not list {key} of {name} - download both again")
            tensors[key] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise ScratchError(
            f"{index} - lists {len(missing)} tensors that its shards lack, such as {missing[0]} -"
            " download the folder again"
        )
    return tensors


def _fields(file: Path, warnings: list[str], optional: bool = False) -> Fields:
    if not file.is_file():
        if optional:
            return Fields({}, str(file))
        raise ScratchError(f"{file} - missing - download the whole folder, with every config.json")
    return Fields(read_json(file), str(file), warnings)


def _scheduler_class(index: Fields) -> dict[str, str]:
    """The class that model_index.json names, which diffusers takes whatever the scheduler's own file says."""
    match index.data.get("scheduler"):
        case [str(), str(name)]:
            return {"_class_name": name}
    return {}


def _check_family(path: Path, may_lack: Container[str]) -> None:
    """Name a folder of another family by its sub-folders, before its configurations are read."""
    if (path / "transformer").is_dir() and not (path / "unet").is_dir():
        raise _unsupported(path, "a diffusion transformer (Stable Diffusion 3, Flux or similar)")
    if (path / "text_encoder_2").is_dir():
        raise _unsupported(path, "a Stable Diffusion XL model")
    missing = [
        part.folder
        for name, part in PARTS.items()
        if part.needed and name not in may_lack and not (path / part.folder).is_dir()
    ]
    if missing and (snapshots := sorted((path / "snapshots").glob("*/"))):
        raise ScratchError(
            f"{path} - a folder of the hub client's cache, where each commit is a folder of its own: give"
            f" {snapshots[-1]}"
        )
    if missing:
        raise ScratchError(
            f"{path} - no {', '.join(f'{m}/' for m in missing)} in it - a diffusers folder has"
            " unet/, vae/ and text_encoder/; for a single file give the file's own path"
        )


def _no_weights(folder: Path, stem: str) -> ScratchError:
    others = sorted(file.name for file in folder.iterdir() if file.suffix != ".json")[:3]
    there = f" but {', '.join(others)}" if others else ""
    return ScratchError(
        f"{folder} - no {stem}.safetensors in it{there} - download the folder again"
    )


def _unsupported(path: Path, family: str) -> ScratchError:
    return ScratchError(f"{path} - {family} - {ONLY}")
