"""What strangers' files do to the readers: mutations of good files, counted by outcome.

    scripts/fuzz [--minutes N] [--memory GB] [--count N] [--kind NAME ...] [--seed N] [--keep FOLDER]

Outcomes: loaded; refused, which is one line; raw, any other error; slow, more than 5 s (an alarm ends the
case); over, more memory than was allowed, or 256 MB more than any case before it. Half of the mutations are
repaired where a format has a length or a checksum, so that they get past it. The exit status is 1 where
there was a raw, a slow or an over; `--keep` keeps those files.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.checkpoints.adapters.control import read_control
from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.checkpoints.config_json import latent_size
from sd_scratch.checkpoints.parts import PARTS
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.pixel_model import pixel_model_config
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.checkpoints.scheduler_json import schedule_config
from sd_scratch.config import ControlNetConfig
from sd_scratch.dialects.stored_recipe import encode_picture, read_recipe
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, read_json
from sd_scratch.networks.controlnet import ControlNet
from sd_scratch.pictures.read import read_picture
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.replay import StoredRun
from sd_scratch.tensors.storage import write_folder
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.pixels.idx import read_idx
from sd_scratch.training.state import HEAD, RunState, load_state, save_state

SLOW = 5.0  # seconds
OVER = 256 << 20  # bytes that one case may add to the most that was ever taken
VALUES = (b"null", b"true", b"-1", b"1e999", b"[]", b"{}", b'""', b"NaN", b"9" * 40, b"[" * 2000)
OPCODES = (
    b"}",
    b"]",
    b"(",
    b"t",
    b"R",
    b".",
    b"\x85",
    b"h\x00",
    b"q\x01",
    b"0",
    b"2",
    b"b",
    b"N",
    b"Q",
)
Reader = Callable[[Path], object]
Repair = Callable[[bytes], bytes]
ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "weights"


@dataclass(frozen=True)
class Kind:
    """Good files, what reads them, and how a changed one is made to look whole again."""

    paths: list[Path]
    read: Reader
    repair: Repair = bytes
    values: tuple[bytes, ...] = VALUES


class Alarm(BaseException):
    """A case has had its time. No Exception, which a reader might take for a damaged file."""


# Kinds of files -----------------------------------------------------------------------------------


def headers(folder: Path) -> Kind:
    path = folder / "a.safetensors"
    save_file({"a": torch.zeros(3), "b.c": torch.zeros(2, 2).half()}, path, {"format": "pt"})
    return Kind([path], read_header, with_length)


def pickles(folder: Path) -> Kind:
    path = folder / "a.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(3), "b": torch.zeros(2, 2).half()}, "n": 1}, path)
    return Kind([path], read_weights, rezipped, OPCODES)


def legacy_pickles(folder: Path) -> Kind:
    path = folder / "a.pt"
    table = {"a": torch.zeros(3), "b": torch.zeros(2, 2).half()}
    torch.save(table, path, _use_new_zipfile_serialization=False)
    return Kind([path], read_weights, bytes, OPCODES)


def configs(folder: Path) -> Kind:
    names = ("unet", "vae", "text_encoder", "scheduler", "ddpm-mnist")
    for name in names:
        source = SHIPPED / ("" if name == "ddpm-mnist" else "scenes") / name
        file = next(source.glob("*config.json"))
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes(file.read_bytes())

    def read(path: Path) -> None:
        fields, name = Fields(read_json(path), str(path)), path.parent.name
        if name == "scheduler":
            schedule_config(fields)
        elif name == "ddpm-mnist":
            pixel_model_config(fields)
        else:
            next(part for part in PARTS.values() if part.folder == name).read(fields)
            if name == "unet":
                latent_size(fields)

    return Kind([folder / name / "config.json" for name in names], read)


def tokenizers(folder: Path) -> Kind:
    for file in (SHIPPED / "scenes" / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    paths = [folder / "vocab.json", folder / "merges.txt"]
    return Kind(paths, lambda path: Tokenizer.from_folder(path.parent, 77))


def texts(folder: Path) -> Kind:
    path = folder / "a.png"
    recipe = Recipe(prompt="a red star", seed=7, steps=3, sampler="ddim", width=64, height=64)
    path.write_bytes(encode_picture(Image.new("RGB", (2, 2)), recipe))
    return Kind([path], read_recipe, with_checksums)


def pictures(folder: Path) -> Kind:
    paths = [folder / "a.png", folder / "b.png", folder / "c.png"]
    noise = Image.effect_noise((16, 16), 50)
    noise.save(paths[0])
    noise.convert("P").save(paths[1], transparency=3)
    Image.new("I;16", (9, 9), 500).save(paths[2])
    return Kind(paths, read_picture, with_checksums)


def jpegs(folder: Path) -> Kind:
    paths = [folder / "a.jpg", folder / "b.jpg"]
    noise = Image.effect_noise((24, 16), 50)
    noise.save(
        paths[0], exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    noise.convert("CMYK").save(paths[1], progressive=True)
    return Kind(paths, read_picture)


def webps(folder: Path) -> Kind:
    paths = [folder / "a.webp", folder / "b.webp", folder / "c.webp"]
    noise = Image.effect_noise((24, 16), 50).convert("RGB")
    noise.save(paths[0])
    noise.convert("RGBA").save(paths[1], lossless=True)
    noise.save(paths[2], save_all=True, append_images=[noise])
    return Kind(paths, read_picture)


def loras(folder: Path) -> Kind:
    path, model = folder / "a.safetensors", components()
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    width = model.config.unet.block_out_channels[0]
    tensors = {
        f"{key}.lora_up.weight": torch.zeros(width, 2),
        f"{key}.lora_down.weight": torch.zeros(2, width),
        f"{key}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, path, {"ss_network_dim": "2", "ss_tag_frequency": '{"a": {"b": 1}}'})
    return Kind([path], lambda path: read_lora(path, model), with_length)


def embeddings(folder: Path) -> Kind:
    model = components()
    vectors = torch.zeros(2, model.config.text.hidden_size)
    paths = [folder / "a.safetensors", folder / "b.pt", folder / "c.bin"]
    save_file({"emb_params": vectors}, paths[0])
    torch.save({"string_to_param": {"*": vectors}, "name": "a", "step": 3}, paths[1])
    torch.save({"<a>": vectors}, paths[2])
    return Kind(paths, lambda path: read_embeddings(path, model), any_repair)


def controls(folder: Path) -> Kind:
    model = components()
    network = ControlNet(ControlNetConfig(unet=model.config.unet))
    paths = [folder / "diffusion_pytorch_model.safetensors", folder / "config.json"]
    save_file(network.half().state_dict(), paths[0])
    unet = json.loads((SHIPPED / "scenes" / "unet" / "config.json").read_text())
    paths[1].write_text(
        json.dumps({**unet, "conditioning_embedding_out_channels": [16, 32, 96, 256]})
    )
    return Kind(paths, lambda path: read_control(path.parent, model), with_length)


def traces(folder: Path) -> Kind:
    run = {"seeds": [7], "prompts": {"cond": [{"text": "a", "clip_skip": 1, "token_ids": [1]}]}}
    manifest = {
        "format": "sd_scratch trace",
        "version": 1,
        "run": {**run, "sampler": "ddim", "steps": 3, "guidance": 7.5, "sampler_options": {}},
        "edits": [],
        "branch": None,
        "steps": {"0": [999.0, 14.6]},
        "tensors": {"unet.h": {"axes": ["batch"], "hw": [1, 3], "words": [], "averaged": False}},
        "files": {"values-00001.safetensors": ["unet.h@0"]},
    }
    values = {"unet.h@0": torch.zeros(3)}
    inputs = {"noise": torch.zeros(1, 4, 2, 2)}
    files = {"values-00001.safetensors": values, "inputs.safetensors": inputs}
    write_folder(folder / "trace", files, manifest)

    def read(path: Path) -> None:
        run = StoredRun.read(path.parent)
        _ = run.seeds, run.prompts, run.noise, run.edits()
        for name in run.trace.names:
            _ = run.trace[name].tensor

    paths = [folder / "trace" / name for name in ("manifest.json", *files)]
    return Kind(paths, read, with_length)


def states(folder: Path) -> Kind:
    """With the checksum that they were written with, which must keep every change out."""
    path = write_state(folder)

    def read(path: Path) -> None:
        found = load_state(path.parent)
        if found is None or found.step != 5 or not found.model["w"].eq(1.0).all():
            raise RuntimeError("poisoned: other numbers were loaded")

    return Kind([path], read)


def sealed_states(folder: Path) -> Kind:
    """With a checksum that somebody has made to fit, half of them."""
    return Kind([write_state(folder)], lambda path: load_state(path.parent), with_digest)


def write_state(folder: Path) -> Path:
    generator, weights = torch.Generator().get_state(), {"w": torch.ones(3)}
    return save_state(folder, RunState({"lr": 1.0}, 5, 1.0, weights, weights, {}, generator))


def data_sets(folder: Path) -> Kind:
    path = folder / "images"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18))
    return Kind([path], lambda path: read_idx(path, 3))


KINDS = {
    kind.__name__: kind
    for kind in (
        headers,
        pickles,
        legacy_pickles,
        configs,
        tokenizers,
        texts,
        pictures,
        jpegs,
        webps,
        loras,
        embeddings,
        controls,
        traces,
        states,
        sealed_states,
        data_sets,
    )
}
_loaded: list[Components] = []


def components() -> Components:
    """The shipped model, loaded once."""
    if not _loaded:
        _loaded.append(load_components(SHIPPED / "scenes"))
    return _loaded[0]


# Mutations ----------------------------------------------------------------------------------------


def mutated(data: bytes, draw: random.Random, values: tuple[bytes, ...] = VALUES) -> bytes:
    """A few bytes changed, cut, doubled or replaced by values that readers stumble over."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        way = draw.randrange(6)
        if way == 0 and changed:
            changed[at % len(changed)] ^= 1 << draw.randrange(8)
        elif way == 1:
            del changed[at : at + draw.randint(1, 40)]
        elif way == 2:
            changed[at:at] = changed[at : at + draw.randint(1, 40)]
        elif way == 3:
            changed[at : at + draw.randint(0, 8)] = draw.choice(values)
        elif way == 4:
            changed[at : at + 4] = draw.randbytes(4)
        elif b":" in changed:  # a value of JSON as a whole
            start = changed.find(b":", at) + 1
            end = start + len(changed[start:].split(b",", 1)[0])
            changed[start:end] = draw.choice(values)
    return bytes(changed)


def with_length(data: bytes) -> bytes:
    """A safetensors file whose first eight bytes say where its header ends."""
    end = data.rfind(b"}", 8, 8 + 100_000) + 1
    return struct.pack("<Q", end - 8) + data[8:] if end > 8 else data


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


def rezipped(data: bytes) -> bytes:
    """An archive whose entries are as they were, and have the checksums of what they hold now."""
    fixed = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(fixed, "w") as new:
            for entry in old.infolist():
                start = entry.header_offset
                skip = 30 + sum(struct.unpack("<HH", data[start + 26 : start + 30]))
                content = data[start + skip : start + skip + entry.file_size]
                new.writestr(entry.filename, content)
    except Exception:  # too damaged for that
        return data
    return fixed.getvalue()


def any_repair(data: bytes) -> bytes:
    return rezipped(data) if data[:2] == b"PK" else with_length(data)


def with_digest(data: bytes) -> bytes:
    """A training state whose checksum is that of what it holds."""
    begin = len(HEAD) + hashlib.sha256().digest_size
    inner = rezipped(data[begin:])
    return HEAD + hashlib.sha256(inner).digest() + inner


# Running ------------------------------------------------------------------------------------------


def outcome(read: Reader, path: Path) -> str:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        read(path)
        found = "loaded"
    except ScratchError as error:
        found = "refused" if "\n" not in str(error) else "raw: several lines"
    except MemoryError:
        found = "over"
    except Alarm:
        found = "slow"
    except Exception as error:
        found = f"raw: {type(error).__name__} {str(error)[:60]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 1 if sys.platform == "darwin" else 1024
    if grown * unit > OVER:
        return "over"
    return "slow" if time.perf_counter() - began > SLOW else found


def ring(number: int, frame: object) -> None:
    raise Alarm


def fuzz(
    name: str,
    count: int,
    seed: int = 0,
    until: float = float("inf"),
    keep: Path | None = None,
) -> Counter[str]:
    """How often each outcome came, of `count` mutations or as many as there is time for."""
    draw, found = random.Random(f"{name} {seed}"), Counter[str]()
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    before = signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory(dir=in_memory) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = KINDS[name](Path(folder))
        good = {path: path.read_bytes() for path in kind.paths}
        outcome(kind.read, kind.paths[0])  # what is loaded once counts for nobody
        for _ in range(count):
            if time.monotonic() > until:
                break
            path = draw.choice(kind.paths)
            data = mutated(good[path], draw, kind.values)
            data = kind.repair(data) if draw.random() < 0.5 else data
            path.write_bytes(data)
            became = outcome(kind.read, path)
            found[became] += 1
            if keep is not None and became not in ("loaded", "refused"):
                digest = hashlib.sha256(data).hexdigest()[:8]
                (keep / f"{name}-{became.split()[0].strip(':')}-{digest}{path.suffix}").write_bytes(
                    data
                )
            path.write_bytes(good[path])
    signal.signal(signal.SIGALRM, before)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--memory", type=float, default=4.0, metavar="GB")
    parser.add_argument("--count", type=int, default=10**9, help="of each kind, at most")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="again for more (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for files that did harm")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    limit = int(args.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bad, kinds = 0, args.kind or list(KINDS)
    for kind in kinds:
        began = time.monotonic()
        until = began + 60 * args.minutes / len(kinds)
        found = fuzz(kind, args.count, args.seed, until, args.keep)
        bad += sum(found.values()) - found["loaded"] - found["refused"]
        took = time.monotonic() - began
        print(
            f"{kind}: {sum(found.values()):,} in {took:.0f} s", json.dumps(dict(found)), flush=True
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
