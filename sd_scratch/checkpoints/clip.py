"""CLIP from a folder in transformers' layout, or from the hub, and to one: pictures and texts compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints import shipped
from sd_scratch.checkpoints.build import check, check_memory, empty, fill
from sd_scratch.checkpoints.config_json import (
    numbers,
    text_encoder_config,
    text_encoder_json,
    transformer,
)
from sd_scratch.checkpoints.hub import transport_error
from sd_scratch.checkpoints.pickle_file import read_pickle
from sd_scratch.checkpoints.safetensors_file import StoredTensor, read_header
from sd_scratch.checkpoints.safetensors_writer import write_tensors
from sd_scratch.checkpoints.source import HUB_ID, called
from sd_scratch.config import ClipConfig, ImageEncoderConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home, write_file
from sd_scratch.json_file import Fields, read_json
from sd_scratch.networks.image_encoder import Clip
from sd_scratch.tensors import Recordable, Taps
from sd_scratch.text.tokenizer import Tokenizer

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
VOCABULARY = ("vocab.json", "merges.txt")
PREPROCESSOR = "preprocessor_config.json"
# Of the colours 0..1 in CLIP's training data.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipModel(Recordable):
    """CLIP with its tokenizer, ready to run; `name` is what was asked for, without a path.

    Its tensors are named ``clip.`` and the path of their module, and can be recorded and edited.
    """

    network: Clip
    tokenizer: Tokenizer
    name: str
    taps: Taps = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", clip_taps(self.network))


def load_clip(
    source: str, *, offline: bool = False, device: str | torch.device = "cpu"
) -> ClipModel:
    """Load CLIP in float32: a shipped one by name, a folder (config.json and its weights), or a hub id.

    OpenAI's repositories hold a pickle; it is read by PyTorch's restricted reader, which runs no code.
    Raises ScratchError for a source that is not there, is not CLIP, or does not fit its configuration.
    """
    folder = locate_clip(source, offline=offline)
    config = clip_config(Fields(read_json(folder / CONFIG), str(folder / CONFIG)))
    network, tensors = empty(Clip, config), _stored(folder)
    check(network, "CLIP model", tensors, folder)
    parameters = sum(tensor.numel for tensor in tensors.values())
    check_memory(folder, 4 * parameters, torch.float32, torch.device(device))
    fill(network, tensors, torch.float32, torch.device(device))
    length = config.text.max_position_embeddings
    own = all((folder / name).is_file() for name in VOCABULARY)
    tokenizer = Tokenizer.from_folder(folder, length) if own else Tokenizer.clip(length)
    if tokenizer.vocab_size > config.text.vocab_size:
        raise ScratchError(f"{folder} - its vocabulary is larger than its embedding")
    return ClipModel(network, tokenizer, called(source))


def clip_taps(network: Clip) -> Taps:
    """The taps of CLIP, which is called once with a picture and once with a text."""

    def dry_run(roots: Mapping[str, Any], hw: tuple[int, int] | None) -> None:
        clip, side = roots["clip"], network.config.image.image_size
        length = network.config.text.max_position_embeddings
        with torch.device("meta"):
            pictures = torch.zeros(1, 3, side, side, dtype=clip.logit_scale.dtype)
            ids = torch.zeros(1, length, dtype=torch.long)
        clip.image_vectors(pictures)
        clip.text_vectors(ids)

    return Taps({"clip": network}, dry_run)


def clip_without_weights(source: str, dtype: torch.dtype) -> Clip | None:
    """The network of a shipped CLIP or of a folder that holds one, on the ``meta`` device; None for what is
    no CLIP. Raises ScratchError for a configuration that is damaged."""
    shipped_one = source in list_clips()
    folder = shipped.weights_folder() / source if shipped_one else at_home(source)
    if not (folder / CONFIG).is_file():
        return None
    fields = Fields(read_json(folder / CONFIG), str(folder / CONFIG))
    if fields.data.get("model_type") != "clip":
        return None
    return empty(Clip, clip_config(fields)).to(dtype)


def list_clips() -> list[str]:
    """The names of the shipped ones, sorted."""
    configs = sorted(shipped.weights_folder().glob(f"*/{CONFIG}"))
    return [path.parent.name for path in configs if read_json(path).get("model_type") == "clip"]


def save_clip(clip: ClipModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a folder that this package and transformers read, over the one that is there.

    Raises ScratchError when it cannot be written.
    """
    config, tokenizer = clip.network.config, clip.tokenizer
    write_tensors(
        folder / WEIGHTS, clip.network.state_dict(), dtype, {"format": "pt"}, overwrite=True
    )
    tokenizer.save(folder)
    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    text: dict[str, Any] = (
        text_encoder_json(config.text) | ends | {"pad_token_id": tokenizer.end_id}
    )
    image: dict[str, Any] = asdict(config.image) | {"model_type": "clip_vision_model"}
    both = {"projection_dim": config.projection_dim}
    scale = float(clip.network.logit_scale.detach())
    data = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "logit_scale_init_value": scale,
        **both,
        "text_config": text | both,
        "vision_config": image | both,
    }
    side = config.image.image_size
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": MEAN,
        "image_std": DEVIATION,
    }
    for name, values in ((CONFIG, data), (PREPROCESSOR, pictures)):
        write_file(folder / name, json.dumps(values, indent=2).encode() + b"\n", overwrite=True)


def locate_clip(source: str, *, offline: bool = False) -> Path:
    """The folder of a CLIP model, fetched from the hub where it is no folder.

    Raises ScratchError: nothing there, or the hub cannot be reached.
    """
    if source in list_clips():
        return shipped.weights_folder() / source
    path = at_home(source)
    if path.is_dir():
        return path
    if path.exists() or not HUB_ID.fullmatch(source):
        raise UsageError(f"{source} - no folder, and no hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        small = [CONFIG, *VOCABULARY, WEIGHTS]
        folder = Path(snapshot_download(source, allow_patterns=small, local_files_only=offline))
        if not (folder / WEIGHTS).is_file():
            folder = Path(
                snapshot_download(source, allow_patterns=[*small, PICKLE], local_files_only=offline)
            )
    except (ValueError, OSError, transport_error()) as error:
        raise ScratchError(
            f"{source} - cannot be had from the hub ({type(error).__name__}) - check the name and the "
            "network, or name a folder that holds CLIP"
        ) from None
    return folder


def clip_config(fields: Fields) -> ClipConfig:
    """`config.json` of a CLIP model. Absent keys mean transformers' defaults."""
    if fields.data.get("model_type") != "clip":
        fields.fail("model_type", "clip, with an image and a text encoder")
    text, image = fields.nested("text_config"), fields.nested("vision_config")
    sides = {"image_size": 224, "patch_size": 32}
    widths = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    return ClipConfig(
        text=text_encoder_config(text),
        image=ImageEncoderConfig(**transformer(image, **sides, **widths)),
        **numbers(fields, projection_dim=512),
    )


def _stored(folder: Path) -> Mapping[str, StoredTensor]:
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS).tensors
    if not (folder / PICKLE).is_file():
        raise ScratchError(f"{folder} - holds neither {WEIGHTS} nor {PICKLE}")
    return read_pickle(folder / PICKLE).tensors


def prepare(pixels: Tensor, side: int) -> Tensor:
    """8-bit pictures ``[B, 3, H, W]`` as CLIP reads them, ``[B, 3, side, side]``: the shorter side
    resized to `side` (bicubic), the middle cut out, colours normalised."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    size = (int(width * side / short), int(height * side / short))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pictures = []
    for picture in pixels.permute(0, 2, 3, 1).cpu().numpy():
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        pictures.append(np.asarray(resized.crop((left, top, left + side, top + side))))
    colours = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (colours - mean) / deviation
