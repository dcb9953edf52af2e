"""What strangers' files do to the readers: mutations of good files, counted by outcome.

    scripts/fuzz [--minutes N] [--memory GB] [--count N] [--kind NAME ...] [--seed N]

Outcomes: loaded; refused, which is one line; raw, any other error; slow, more than 5 s; over, more memory
than was allowed. The exit status is 1 where there was a raw, a slow or an over.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from sd_scratch.checkpoints.config_json import unet_config
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, read_json
from sd_scratch.pictures.read import read_picture
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.replay import StoredRun
from sd_scratch.pipeline.stored_recipe import encode_picture, read_recipe
from sd_scratch.tensors.storage import write_folder
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.pixels.idx import read_idx
from sd_scratch.training.state import RunState, load_state, save_state

SLOW = 5.0  # seconds
VALUES = (b"null", b"true", b"-1", b"1e999", b"[]", b"{}", b'""', b"NaN", b"9" * 40, b"[" * 2000)
Reader = Callable[[Path], object]
ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "weights" / "scenes"


def headers(folder: Path) -> tuple[Path, Reader]:
    path = folder / "a.safetensors"
    save_file({"a": torch.zeros(3), "b.c": torch.zeros(2, 2).half()}, path, {"format": "pt"})
    return path, read_header


def configs(folder: Path) -> tuple[Path, Reader]:
    path = folder / "config.json"
    path.write_bytes((SCENES / "unet" / "config.json").read_bytes())
    return path, lambda path: unet_config(Fields(read_json(path), str(path)))


def tokenizers(folder: Path) -> tuple[Path, Reader]:
    for file in (SCENES / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "vocab.json", lambda path: Tokenizer.from_folder(path.parent, 77)


def texts(folder: Path) -> tuple[Path, Reader]:
    path = folder / "a.png"
    recipe = Recipe(prompt="a red star", seed=7, steps=3, sampler="ddim", width=64, height=64)
    path.write_bytes(encode_picture(Image.new("RGB", (2, 2)), recipe))
    return path, read_recipe


def pictures(folder: Path) -> tuple[Path, Reader]:
    path = folder / "a.png"
    Image.effect_noise((16, 16), 50).save(path)
    return path, read_picture


def traces(folder: Path) -> tuple[Path, Reader]:
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

    return folder / "trace" / "manifest.json", read


def states(folder: Path) -> tuple[Path, Reader]:
    generator = torch.Generator().get_state()
    weights = {"w": torch.zeros(3)}
    path = save_state(folder, RunState({"lr": 1.0}, 5, 1.0, weights, weights, {}, generator))
    return path, lambda path: load_state(path.parent)


def data_sets(folder: Path) -> tuple[Path, Reader]:
    path = folder / "images"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18))
    return path, lambda path: read_idx(path, 3)


KINDS = {
    f.__name__: f
    for f in (headers, configs, tokenizers, texts, pictures, traces, states, data_sets)
}


def mutated(data: bytes, draw: random.Random) -> bytes:
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
            changed[at : at + draw.randint(0, 8)] = draw.choice(VALUES)
        elif way == 4:
            changed[at : at + 4] = draw.randbytes(4)
        elif b":" in changed:  # a value of JSON as a whole
            start = changed.find(b":", at) + 1
            end = start + len(changed[start:].split(b",")[0])
            changed[start:end] = draw.choice(VALUES)
    return bytes(changed)


def outcome(read: Reader, path: Path) -> str:
    began = time.perf_counter()
    try:
        read(path)
        found = "loaded"
    except ScratchError as error:
        found = "refused" if "\n" not in str(error) else "raw: several lines"
    except MemoryError:
        found = "over"
    except Exception as error:
        found = f"raw: {type(error).__name__} {str(error)[:60]}"
    return "slow" if time.perf_counter() - began > SLOW else found


def fuzz(kind: str, count: int, seed: int = 0, until: float = float("inf")) -> Counter[str]:
    """How often each outcome came, of `count` mutations or as many as there is time for."""
    draw, found = random.Random(f"{kind} {seed}"), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path, read = KINDS[kind](Path(folder))
        good = path.read_bytes()
        for _ in range(count):
            if time.monotonic() > until:
                break
            path.write_bytes(mutated(good, draw))
            found[outcome(read, path)] += 1
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
    args = parser.parse_args()
    import logging

    logging.disable(logging.CRITICAL)
    limit = int(args.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bad, kinds = 0, args.kind or list(KINDS)
    for kind in kinds:
        until = time.monotonic() + 60 * args.minutes / len(kinds)
        found = fuzz(kind, args.count, args.seed, until)
        bad += sum(found.values()) - found["loaded"] - found["refused"]
        print(f"{kind}: {sum(found.values()):,}", json.dumps(dict(found)), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
