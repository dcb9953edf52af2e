"""The faults of `tests/faults/table.py`, each as a command with its exit status and what it says.

Nothing that was there is touched. What no command line brings about by itself is in `accidents.py`.
"""

import gzip
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_scratch.checkpoints import hashes
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.cli import main
from sd_scratch.cli.console import report_error
from sd_scratch.dialects.stored_recipe import encode_picture
from sd_scratch.errors import ScratchError
from sd_scratch.pictures.png import encode_png
from sd_scratch.pipeline.recipe import Recipe
from tests.fake_hub import TOKEN
from tests.faults import accidents
from tests.faults.table import FAULTS

GENERATE = [
    "generate",
    "a",
    "-m",
    "model",
    "--device=cpu",
    "--steps=1",
    "-W=16",
    "-H=16",
    "-o=new.png",
]
TRACE = ["trace", "a", "-m", "model", "--steps", "1", "--tensors", "unet.h"]
SAMPLE = ["sample", "mnist", "--steps", "1"]
TRAIN = ["train", "pictures", "-o", "run", "--max-steps", "1", "--data", "data"]
SIGNALS = 128  # and above: it ended by a signal, which is no error
MADE = {"cache", "own", "out", "run", "bad", "cut", "mnist"}  # by what went on until it failed
Make = Callable[[], object]


class Case(NamedTuple):
    fault: int
    status: int
    message: str
    does: list[str] | accidents.Play
    make: Make = lambda: None


# What is made for a case, in an empty folder where `model` is a good one ------------------------------


def copy() -> Path:
    """A model's folder to spoil; what is not spoilt is shared."""
    return Path(shutil.copytree("model", "bad", copy_function=os.link))


def config(part: str, **values: object) -> None:
    write(copy() / part, edited(Path("model") / part, **values))


def edited(path: Path, **values: object) -> str:
    return json.dumps(json.loads(path.read_text()) | values)


def write(path: str | Path, data: str | bytes) -> Path:
    path = Path(path)
    path.unlink(missing_ok=True)  # which may be linked to a good one
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def weights(part: str = "unet", **changes: object) -> None:
    """The folder with other tensors: None leaves one out."""
    path = next((copy() / part).glob("*.safetensors"))
    tensors = load_file(path) | changes
    path.unlink()
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, path)


def safetensors(
    *, cut: int = 0, more: bytes = b"", header: str = "", data: bytes = bytes(12)
) -> None:
    header = header or '{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    whole = struct.pack("<Q", len(header)) + header.encode() + data
    write("bad.safetensors", whole[: len(whole) - cut] + more)


def pickle(content: object, **options: object) -> None:
    torch.save(content, "bad.ckpt", **options)


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return open, ("sprung", "w")


def single() -> Path:
    assert main(["weights", "convert", "model", "bad.safetensors"]) == 0
    return Path("bad.safetensors")


def old_names() -> None:
    """The autoencoder's attention as it was called before 2023."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    found = load_file(next(Path("model/vae").glob("*.safetensors")))
    pairs = [
        (key, key.replace(f".{new}.", f".{name}."))
        for new, name in old.items()
        for key in found
        if f".{new}." in key
    ]
    assert pairs
    weights("vae", **{key: None for key, _ in pairs}, **{name: found[key] for key, name in pairs})


def legacy() -> None:
    """The U-Net's weights as PyTorch wrote them before 1.6."""
    path = next((copy() / "unet").glob("*.safetensors"))
    torch.save(load_file(path), path.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    path.unlink()


def tar() -> None:
    """And before 0.1.10."""
    with tarfile.open("bad.ckpt", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add("file", name)


def half_only() -> None:
    path = next((copy() / "unet").glob("*.safetensors"))
    save_file(
        {key: value.half() for key, value in load_file(path).items()},
        path.with_suffix(".fp16.safetensors"),
    )
    path.unlink()


def deflated() -> None:
    pickle({"a": torch.zeros(9)})
    with zipfile.ZipFile("bad.ckpt") as old, zipfile.ZipFile("bad2.ckpt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    os.replace("bad2.ckpt", "bad.ckpt")


def stranger(**recipe: object) -> None:
    made = Recipe(**{"prompt": "a", "model": "scenes", **recipe})
    write("theirs.png", encode_picture(Image.new("RGB", (8, 8)), made))


def later_version(**more: object) -> None:
    """A picture with settings that this version has no name for."""
    data = json.loads(Recipe(prompt="a", model="scenes").to_json()) | more
    write("theirs.png", encode_png(Image.new("RGB", (8, 8)), {"sd_scratch": json.dumps(data)}))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb() -> None:
    data = encode_png(Image.new("RGB", (8, 8)))
    body = b"parameters\0\0" + zlib.compress(b"x" * 10**8)
    write("theirs.png", data[:33] + chunk(b"zTXt", body) + data[33:])


def wide_png() -> None:
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    write("init.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", b""))


def pixel_model(**network: object) -> None:
    path = Path(shutil.copytree(weights_folder() / "ddpm-mnist", "pixels")) / "config.json"
    data = json.loads(path.read_text())
    data["schedule"] |= {k: network.pop(k) for k in list(network) if k in data["schedule"]}
    path.write_text(json.dumps(data | {"network": data["network"] | network}))


def integers() -> None:
    pixel_model()
    path = Path("pixels/model.safetensors")
    save_file({key: value.to(torch.int8) for key, value in load_file(path).items()}, path)


def labels(*rows: str) -> None:
    Path("data").mkdir()
    Image.new("RGB", (9, 9)).save("good.png")
    write("data/text.png", "no picture")
    os.mkfifo("data/pipe")
    write("data/labels.csv", "\n".join(["file,label", *rows]))


def idx_bomb() -> None:
    Path("data").mkdir()
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 40_000, 100, 100)
    write("data/train-images-idx3-ubyte.gz", gzip.compress(header + bytes(1000)))


def inpainting() -> None:
    width = json.loads(Path("model/unet/config.json").read_text())["block_out_channels"][0]
    weights(**{"conv_in.weight": torch.zeros(width, 9, 3, 3)})
    write("bad/unet/config.json", edited(Path("model/unet/config.json"), in_channels=9))


def locked() -> None:
    Path("locked").mkdir(mode=0o500)


CASES = [
    Case(1, 2, "no such model; looked for", [*GENERATE, "-m", "missing.safetensors"]),
    Case(1, 2, "did you mean model?", [*GENERATE, "-m", "modl"]),
    Case(1, 1, "no text_encoder/, unet/, vae/ in it", [*GENERATE, "-m", "full"]),
    Case(
        2, 1, "a git-lfs pointer, not the file - run git lfs pull", [*GENERATE, "-m", "bad.safetensors"],
        lambda: write("bad.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    Case(
        3, 1, "looks like a web page", [*GENERATE, "-m", "bad.safetensors"],
        lambda: write("bad.safetensors", "<!DOCTYPE html><html>log in"),
    ),
    Case(
        3, 1, "looks like JSON", [*GENERATE, "-m", "bad.ckpt"],
        lambda: write("bad.ckpt", '{"error": "Access denied"}'),
    ),
    Case(4, 2, "is written as NAME.safetensors", ["weights", "convert", "model", "new.ckpt"]),
    Case(4, 0, "a safetensors file, whatever its name says", ["weights", "inspect", "bad.ckpt"],
         lambda: single().rename("bad.ckpt")),
    Case(5, 1, "cut short: have 70 of 75 bytes (93 %)", [*GENERATE, "-m", "bad.safetensors"], lambda: safetensors(cut=5)),
    Case(6, 1, "5 extra bytes", [*GENERATE, "-m", "bad.safetensors"], lambda: safetensors(more=b"extra")),
    Case(
        7, 1, "its header claims 1,152,921,504,606,846,976 bytes", [*GENERATE, "-m", "bad.safetensors"],
        lambda: write("bad.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    ),
    Case(
        7, 1, "nested too deeply", [*GENERATE, "-m", "bad.safetensors"],
        lambda: safetensors(header='{"a":' + "[" * 100_000),
    ),
    Case(
        8, 1, 'the key "a" appears twice', [*GENERATE, "-m", "bad.safetensors"],
        lambda: safetensors(header='{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"a":1}'),
    ),
    Case(
        9, 1, "conv_in.bias", ["weights", "inspect", "bad", "--check"],
        lambda: weights(**{"conv_in.bias": torch.full((32,), torch.nan)}),
    ),
    Case(10, 1, "it wants to call operator.attrgetter", [*GENERATE, "-m", "bad.ckpt"],
         lambda: pickle({"a": torch.zeros(1), "b": __import__("operator").attrgetter("x")})),
    Case(11, 1, "a pickle that holds more than tensors", [*GENERATE, "-m", "bad.ckpt"], lambda: pickle({"a": Payload()})),
    Case(12, 1, "a compressed archive", [*GENERATE, "-m", "bad.ckpt"], deflated),
    Case(12, 1, "is not stored whole", [*GENERATE, "-m", "bad.ckpt"],
         lambda: pickle({"a": torch.zeros(1).expand(10**6, 10**6)})),
    Case(13, 0, "unet/diffusion_pytorch_model.bin used", [*GENERATE, "-m", "bad"], legacy),
    Case(13, 1, "", [*GENERATE, "-m", "bad.ckpt"], tar),
    Case(14, 1, "holds 0 tensors", [*GENERATE, "-m", "bad.ckpt"],
         lambda: pickle({"state_dict": {"state_dict": {"state_dict": {"a": torch.zeros(1)}}}})),
    Case(15, 1, "LoRA", [*GENERATE, "-m", "bad.safetensors"],
         lambda: save_file({"lora_unet_a.lora_down.weight": torch.zeros(1)}, "bad.safetensors")),
    Case(15, 1, "this is Stable Diffusion XL - only", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", addition_embed_type="text_time")),
    Case(16, 1, "1 of the U-Net's", [*GENERATE, "-m", "bad"], lambda: weights(**{"conv_in.bias": None})),
    Case(17, 0, "1 unexpected and not used, such as unet.other.weight", [*GENERATE, "-m", "bad"],
         lambda: weights(**{"other.weight": torch.zeros(1)})),
    Case(18, 1, "conv_in.bias is 5 and the network needs 32", [*GENERATE, "-m", "bad"],
         lambda: weights(**{"conv_in.bias": torch.zeros(5)})),
    Case(19, 0, "", [*GENERATE, "-m", "bad"], old_names),
    Case(20, 0, "warning: float16 is slow", [*GENERATE, "--dtype=float16"]),
    Case(21, 0, "unet/diffusion_pytorch_model.fp16.safetensors used", [*GENERATE, "-m", "bad"], half_only),
    Case(22, 1, "the sample of step 1 of 1 is not finite (NaN or infinity): the weights unet.conv_in.bias are not",
         [*GENERATE, "-m", "bad"], lambda: weights(**{"conv_in.bias": torch.full((32,), torch.nan)})),
    Case(23, 0, "of one colour", [*GENERATE, "-m", "bad"],
         lambda: weights("vae", **{"decoder.conv_out.weight": torch.zeros(3, 16, 3, 3)})),
    Case(24, 0, "too little memory to decode the picture whole: it is decoded in strips",
         accidents.memory_ends_in_the_decoder),
    Case(24, 1, "out of memory - make pictures smaller, fewer at a time", accidents.memory_ends_in_the_unet),
    Case(25, 1, "of memory are free", [*GENERATE, "-W", "8192", "-H", "8192", "--batch-size=64",
                                       "-b=64", "-o", "{seed}.png"]),
    Case(26, 0, "cache", accidents.a_download_breaks_off),
    Case(27, 1, "offline or https://huggingface.co out of reach", [*GENERATE, "-m", "owner/name", "--offline"]),
    Case(28, 1, "gated: its owner wants a licence accepted", accidents.a_model_is_gated),
    Case(28, 1, "no such model on the hub", accidents.a_model_is_gone),
    Case(28, 1, "has no revision v99", accidents.a_revision_is_not_there),
    Case(29, 1, "its sha256 is", accidents.other_bytes_than_pinned),
    Case(30, 1, "the disk is full", accidents.the_disk_fills_up),
    Case(30, 1, "cannot write new/text_encoder/model.safetensors - the disk is full", accidents.the_disk_fills_up_with_a_model),
    Case(31, 1, "a file, not a folder", [*GENERATE, "-o", "file/a.png"]),
    Case(31, 1, "permission denied", [*GENERATE, "-o", "locked/a.png"], locked),
    Case(32, 2, "old.png exists", [*GENERATE, "-o", "old.png"]),
    Case(32, 2, "exists", [*GENERATE, "--save-latents", "old.safetensors"]),
    Case(33, 0, "out/7-0002.png", accidents.another_run_takes_the_name),
    Case(34, 0, "out/7-0000.png", accidents.somebody_looks_while_it_is_written),
    Case(35, 2, "a device or a pipe", [*GENERATE, "-o", "pipe.png"]),
    Case(35, 2, "symbolic link", [*GENERATE, "-o", "link.png", "--overwrite"]),
    Case(35, 0, "out/8.png is no file that could be replaced: this is out/8-1.png",
         ["generate", *GENERATE[1:-1], "-s", "8", "-o", "out/{seed}.png", "--overwrite"],
         lambda: (Path("out").mkdir(), Path("out/8.png").symlink_to("../old.png"))),
    Case(39, 2, "500 is not a multiple of 8: use 496 or 504", [*GENERATE, "-W", "500"]),
    Case(40, 0, "", [*GENERATE, "-W", "8", "-H", "120"]),
    Case(41, 2, "'0' is not an integer from 8 to 8192", [*GENERATE, "-W", "0"]),
    Case(41, 2, "not an integer from 8 to 8192", [*GENERATE, "-H", "1000000"]),
    Case(42, 0, "tokens, the last", [*GENERATE, "-n", "word " * 90, "--syntax", "plain"]),
    Case(43, 0, "", ["generate", "", *GENERATE[2:], "-n", "  "]),
    Case(44, 0, "", ["generate", "👩\u200d🚀 漢字 e\u0301 مرحبا", *GENERATE[2:]]),
    Case(45, 2, "holds a NUL character", [*GENERATE, "-n", "a\0"]),
    Case(45, 2, "half a character (U+D800", [*GENERATE, "-n", "a\ud800"]),
    Case(46, 0, "read as the model's own marks", [*GENERATE, "-n", "<|endoftext|>"]),
    Case(47, 2, "10,000,000 bytes, the limit is 65,536", [*GENERATE, "-n", "x" * 10_000_000]),
    Case(48, 2, "not an integer from 1 to 1000", [*GENERATE, "--steps", "0"]),
    Case(48, 2, "not an integer from 1 to 1000", [*GENERATE, "--steps", "nan"]),
    Case(49, 0, "", GENERATE),
    Case(50, 0, "", [*GENERATE, "--steps", "110", "--sampler", "ddim", "--cfg-scale", "1", "-W", "8", "-H", "8"]),
    Case(51, 2, "'nan' is not a number", [*GENERATE, "--cfg-scale", "nan"]),
    Case(51, 0, "far beyond the usual", [*GENERATE, "--cfg-scale", "31"]),
    Case(51, 0, "", [*GENERATE, "--cfg-scale", "0"]),
    Case(52, 2, "'2' is not a number from 0 to 1", [*GENERATE, "-i", "grey.png", "--strength", "2"]),
    Case(52, 0, "nothing is made anew", [*GENERATE, "-i", "grey.png", "--strength", "0"]),
    Case(53, 2, "'-5' is not a seed: give -1 for a random one", [*GENERATE, "--seed", "-5"]),
    Case(53, 2, "not a seed", [*GENERATE, "--seed", str(2**64)]),
    Case(53, 2, "not a seed", [*GENERATE, "--seed", "abc"]),
    Case(53, 2, "not a seed", [*GENERATE, "--seed", "１"]),
    Case(54, 0, "out", accidents.noise_is_drawn_on_the_processor),
    Case(55, 0, "out/", accidents.two_at_once_and_one_by_one),
    Case(56, 0, "out/", accidents.one_thread_and_two),
    Case(41, 2, "'6４' is not an integer", [*GENERATE, "-W", "6４"]),
    Case(52, 2, "'1_0' is not a number", [*GENERATE, "--cfg-scale", "1_0"]),
    Case(57, 1, "more than 4096 pixels a side - shrink it", [*GENERATE, "-i", "init.png"], wide_png),
    Case(57, 1, "not a PNG, JPEG or WebP picture", [*GENERATE, "-i", "init.png"],
         lambda: write("init.png", "<svg xmlns='http://www.w3.org/2000/svg'/>")),
    Case(57, 1, "damaged or cut off", [*GENERATE, "-i", "init.png"],
         lambda: write("init.png", Path("grey.png").read_bytes()[:60])),
    Case(57, 1, "a device or a pipe", [*GENERATE, "-i", "pipe.png"]),
    Case(57, 0, "", [*GENERATE, "-i", "init.jpg"],
         lambda: Image.new("CMYK", (16, 16), (9, 99, 9, 0)).save("init.jpg")),
    Case(58, 0, "resized", [*GENERATE, "-i", "grey.png", "-W", "32"]),
    Case(59, 1, "`block_out_channels` must be", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", block_out_channels="wide")),
    Case(59, 1, "`layers_per_block` must be an integer", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", layers_per_block=1e999)),
    Case(59, 1, "`cross_attention_dim` must be", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", cross_attention_dim=[])),
    Case(59, 1, "larger than", [*GENERATE, "-m", "bad"],
         lambda: write(copy() / "unet/config.json", b" " * 2_000_000)),
    Case(59, 1, "nested too deeply", [*GENERATE, "-m", "bad"],
         lambda: write(copy() / "unet/config.json", "[" * 100_000)),
    Case(60, 1, "merges.txt", [*GENERATE, "-m", "bad"],
         lambda: write(Path(shutil.copytree(weights_folder() / "scenes", "bad")) / "tokenizer/merges.txt", "x")),
    Case(60, 1, "vocab.json", [*GENERATE, "-m", "bad"],
         lambda: (Path(shutil.copytree(weights_folder() / "scenes", "bad")) / "tokenizer/vocab.json").unlink()),
    Case(61, 1, "the loss is not finite at step 2", accidents.a_loss_is_not_finite),
    Case(61, 2, "batch was 8 and is now 4", accidents.other_settings),
    Case(61, 0, "state-000000002.pt - left aside, it is damaged", accidents.half_a_state),
    Case(61, 1, "no state in run/ddpm can be read", accidents.only_damaged_states),
    Case(62, 1, "no picture could be read", TRAIN, lambda: labels("text.png,a")),
    Case(62, 1, "labels.csv", TRAIN, lambda: Path("data").mkdir()),
    Case(63, 2, "--device cuda:9 - not available", [*GENERATE, "--device", "cuda:9"]),
    Case(64, 2, "did you mean ddim?", [*GENERATE, "--sampler", "dim"]),
    Case(64, 2, "unknown", [*GENERATE, "--schedule", "karas"]),
    Case(64, 2, "did you mean", [*GENERATE, "-m", "scnes"]),
    Case(65, 2, "made by the sampler __class__, which is not here", ["generate", "--from-image", "theirs.png"],
         lambda: stranger(sampler="__class__")),
    Case(65, 2, "no option 'model'", ["generate", "--from-image", "theirs.png"],
         lambda: stranger(sampler="ddim", sampler_options={"model": 1})),
    Case(65, 0, r"settings that are not known here are left out: \x1b[2J, strange", [*GENERATE, "--from-image", "theirs.png"],
         lambda: later_version(**{"strange": 1, "\x1b[2J": {}})),
    Case(65, 0, "made with the text encoder other, and the model's own is used", [*GENERATE, "--from-image", "theirs.png"],
         lambda: later_version(text_encoder="other")),
    Case(65, 0, "made with the averaged U-Net: it will differ - give --ema", [*GENERATE, "--from-image", "theirs.png"],
         lambda: later_version(ema=True)),
    Case(66, 2, "exists", [*SAMPLE, "-o", "old.png"]),
    Case(66, 2, "symbolic link", [*SAMPLE, "-o", "link.png", "--overwrite"]),
    Case(66, 2, "a device or a pipe", [*SAMPLE, "-o", "pipe.png", "--overwrite"]),
    Case(66, 2, "exists", [*SAMPLE, "--film", "old.gif"]),
    Case(66, 2, "end the name with .gif", [*SAMPLE, "--film", "a.png"]),
    Case(67, 2, "a picture cannot choose a file or a download", ["generate", "--from-image", "theirs.png"],
         lambda: stranger(model="owner/name")),
    Case(68, 2, "'../../x' is no name of a branch, a tag or a commit", [*GENERATE, "-m", "owner/name", "--revision", "../../x", "--offline"]),
    Case(69, 1, "64 kB", ["generate", "--from-image", "theirs.png"], bomb),
    Case(70, 0, "lacks the last 4 rows - resume the run to write them", accidents.no_room_for_the_journal),
    Case(71, 0, "the run goes on, its rows are held back", accidents.a_journal_cannot_be_rewritten),
    Case(72, 0, "left aside, it is damaged: its checksum is not that of its contents", accidents.a_changed_byte),
    Case(73, 0, "", accidents.four_threads_on_one_model),
    Case(73, 2, "this network is compiled, and another thread or model", accidents.two_models_on_one_compiled_network),
    Case(73, 2, "unet: a model's networks stay", accidents.a_network_is_replaced),
    Case(73, 0, "", accidents.a_run_is_given_up),
    Case(74, 2, "end the name with .safetensors", [*GENERATE, "-o", "a.png", "--save-latents", "a.png"]),
    Case(75, 1, "the network needs", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", block_out_channels=[16384, 16384, 16384])),
    Case(75, 1, "`sample_size` must be an integer from 1 to 256", [*GENERATE, "-m", "bad"],
         lambda: config("unet/config.json", sample_size=1024)),
    Case(76, 1, "cut off", accidents.a_trace_is_cut_after_it_was_opened),
    Case(77, 2, "is there already", [*TRACE, "-o", "full"]),
    Case(77, 2, "holds thesis.doc", [*TRACE, "-o", "full", "--overwrite"]),
    Case(77, 2, "is there already", [*TRACE, "-o", "."]),
    Case(77, 1, "a file, not a folder", [*TRACE, "-o", "file/x"]),
    Case(77, 1, "permission denied", [*TRACE, "-o", "locked/x"], locked),
    Case(77, 2, "FROM must be before TO", [*TRACE, "-o", "new", "--calls", "5:1"]),
    Case(77, 2, "holds other files", ["map", "heat", "a star", "-o", "full"]),
    Case(77, 2, "or give --overwrite", ["train", "mnist", "-o", "run", "--export", "full"]),
    Case(78, 1, "no picture could be read", TRAIN, lambda: labels("../good.png,a", "pipe,a", "/dev/zero,a")),
    Case(78, 1, "not a path: file name too long", TRAIN, lambda: labels("x" * 300 + ".png,a")),
    Case(78, 1, "a device or a pipe", ["generate", "--from-image", "pipe.png"]),
    Case(79, 1, "announces 400,000,000 bytes", ["train", "mnist", "-o", "run", "--max-steps", "1", "--data", "data"],
         idx_bomb),
    Case(80, 1, "is stored as I8", [*SAMPLE, "-m", "pixels"], integers),
    Case(81, 2, r"\x1b[2J", ["generate", "--from-image", "theirs.png"],
         lambda: stranger(model="\x1b[2Jx/y")),
    Case(82, 1, "not a Stable Diffusion checkpoint that is known here", [*GENERATE, "-m", "bad.safetensors"],
         lambda: safetensors(header='{"__metadata__":null,"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}')),
    Case(82, 1, "bad - schedule: at", [*GENERATE, "-m", "bad"],
         lambda: config("scheduler/scheduler_config.json", num_train_timesteps=100_000)),
    Case(82, 1, "config.json - schedule: at", [*SAMPLE, "-m", "pixels"],
         lambda: pixel_model(num_train_timesteps=100_000, beta_schedule="linear")),
    *(
        Case(83, 2, "the name is empty", [*GENERATE, flag, value])
        for flag in ["-m", "--vae", "--text-encoder", "--revision", "--device", "-i", "--mask", "--from-image", "--lora", "--lora-dir", "--embedding", "--embedding-dir", "--control-net", "--control-image", "--init-noise", "--prompt-file", "-o", "--save-latents", "--preview-file", "--fast"]
        for value in ("", " ")
    ),
    *(
        Case(83, 2, "there is no such user on this machine", [*GENERATE, flag, "~no-such-user/x.png"])
        for flag in ["-m", "--vae", "-i", "--from-image", "--lora", "--lora-dir", "--embedding", "--control-net", "-o", "--preview-file"]
    ),
    *(
        Case(83, 2, "not a path: embedded null byte", [*GENERATE, flag, "a\0b.png"])
        for flag in ["-m", "--vae", "-i", "--from-image", "--lora", "--embedding-dir", "-o", "--save-latents", "--preview-file"]
    ),
    *(
        Case(83, 2, "not a path: file name too long", [*words, "x" * 300 + ".png"])
        for words in (
            *([*GENERATE, flag] for flag in ["-m", "--vae", "-i", "--from-image", "--lora", "--control-net", "-o", "--init-noise"]),
            [*TRACE, "-o"], [*TRAIN, "-o"], ["weights", "convert", "model"], ["weights", "inspect"],
        )
    ),
    Case(83, 2, "surrogates not allowed", [*TRACE, "-o", "\ud800"]),
    Case(83, 2, "the name is empty", [*TRAIN, "--evaluate", ""]),
    Case(83, 2, "the name is empty", [*TRAIN, "--export", ""]),
    Case(83, 2, "the name is empty", [*SAMPLE, "--film", ""]),
    Case(83, 2, "the name is empty", ["map", "heat", "a star", "--ask", ""]),
    Case(83, 2, "the list is empty", ["map", "heat", "a star", "--layers", ""]),
    Case(83, 2, "file is there already", ["weights", "convert", "model", "file"]),
    Case(83, 2, "model/model_index.json exists", ["weights", "convert", "model", "model"]),
    Case(31, 1, "a file, not a folder", ["weights", "convert", "model", "file/new"]),
    Case(82, 1, "`class_names` must be a list of 10 different names", [*SAMPLE, "-m", "pixels"],
         lambda: (pixel_model(), write("pixels/config.json", edited(Path("pixels/config.json"), class_names=["a"] * 10)))),
    Case(83, 2, "the name is empty", ["tensors", "-m", ""]),
    Case(83, 2, "the name is empty", [*SAMPLE, "-m", ""]),
    Case(83, 2, "the name is empty", ["weights", "convert", "model", ""]),
    Case(83, 2, "the name is empty", ["page", "--host", ""]),
    Case(74, 2, "unknown format !r", [*GENERATE[:-1], "-o", "{seed!r}.png"]),
    Case(83, 2, "no such model", [*GENERATE, "-m", "mod\udce9l"]),
    Case(83, 1, r"mod\udce9l/text_encoder/model.safetensors - its path is not UTF-8 text - rename it",
         [*GENERATE, "-m", "./mod\udce9l"], lambda: Path("mod\udce9l").symlink_to("model")),
    Case(83, 0, "", [*GENERATE, "--text-cleaning", "openai", "-n", "&amp;" * 400]),
    Case(84, 1, "no LoRA that is known here", [*GENERATE, "--lora", "bad.safetensors"],
         lambda: save_file({"model.embed.weight": torch.zeros(2, 2)}, "bad.safetensors")),
    Case(84, 2, "there is no such file", [*GENERATE, "--lora", "nowhere.safetensors"]),
    Case(84, 1, "cut short: have 70 of 75 bytes (93 %)", [*GENERATE, "--lora", "bad.safetensors"], lambda: safetensors(cut=5)),
    Case(84, 1, "holds NaN or infinity", [*GENERATE, "--lora", "bad.safetensors"],
         lambda: save_file({"lora_unet_a.lora_down.weight": torch.full((2,), torch.nan)}, "bad.safetensors")),
    Case(85, 1, "bad.pt", [*GENERATE, "--embedding", "bad.pt"],
         lambda: torch.save({"string_to_param": {"*": torch.zeros(2, 768)}}, "bad.pt")),
    Case(35, 1, "a device or a pipe, not a regular file", [*GENERATE, "--init-noise", "pipe.png"]),
    Case(36, 130, "interrupted: 1 of 3 pictures", accidents.interrupted_in_the_second_picture),
    Case(36, 130, "stopping after this step; Ctrl-C again stops at once", accidents.interrupted_at_the_last_step),
    Case(36, 130, "interrupted", accidents.interrupted_twice),
    Case(36, 130, "interrupted", accidents.interrupted_while_a_model_is_written),
    Case(37, 143, "out/7-0000.png", accidents.terminated),
    Case(37, 141, "", accidents.nobody_reads_the_output),
    Case(38, 1, "became shorter while", accidents.a_file_shrinks_while_it_is_read),
    Case(85, 2, "there is no such file", [*GENERATE, "--embedding", "nowhere.pt"]),
    Case(86, 2, "1 --control-net and 0 --control-image", [*GENERATE, "--control-net", "bad.safetensors"],
         safetensors),
    Case(86, 2, "--canny without a ControlNet", [*GENERATE, "--canny"]),
    Case(86, 2, "--control-strength without a ControlNet", [*GENERATE, "--control-strength", "0.5"]),
    Case(86, 1, "bad.safetensors", [*GENERATE, "--control-net", "bad.safetensors", "--control-image", "grey.png"],
         safetensors),
    Case(86, 1, "not a PNG, JPEG or WebP", [*GENERATE, "--control-net", "bad.safetensors", "--control-image", "file"],
         safetensors),
    Case(87, 1, "differ", ["weights", "compare", "model", "bad"],
         lambda: weights(**{"conv_in.bias": torch.zeros(32)})),
    Case(88, 2, "--mask without a picture", [*GENERATE, "--mask", "grey.png"]),
    Case(88, 2, "nothing transparent", [*GENERATE, "-i", "grey.png", "--mask-alpha"]),
    Case(88, 1, "not a PNG, JPEG or WebP", [*GENERATE, "-i", "grey.png", "--mask", "file"]),
    Case(88, 1, "a device or a pipe", [*GENERATE, "-i", "grey.png", "--mask", "pipe.png"]),
    Case(88, 2, "it needs a picture and a mask", [*GENERATE, "-m", "bad"], inpainting),
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("model").symlink_to(tiny_folder)
    os.mkfifo("pipe.png")
    Path("file").touch()
    for name in ("old.png", "old.gif", "old.safetensors"):
        Path(name).write_bytes(b"old")
    Path("link.png").symlink_to("old.png")
    Path("full").mkdir()
    Path("full/thesis.doc").touch()
    Image.new("RGB", (16, 16), "grey").save("grey.png")


def label(case: Case) -> str:
    return f"{case.fault} {FAULTS[case.fault]}"


def run(does: list[str] | accidents.Play, request: pytest.FixtureRequest) -> int:
    if isinstance(does, list):
        return main(does)
    try:
        return does(request)
    except ScratchError as error:  # in a program of somebody's
        return report_error(error)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_faults_end_in_their_status_with_one_line(
    case: Case, request: pytest.FixtureRequest, capsys
) -> None:
    case.make()
    if "locked" in str(case.does) and os.access("locked", os.W_OK):
        pytest.skip("whoever runs this may write everywhere")
    before = sorted(os.listdir())
    assert run(case.does, request) == case.status
    streams = capsys.readouterr()
    lines = streams.err.splitlines()
    assert case.message in streams.err + streams.out and "Traceback" not in streams.err
    assert TOKEN not in streams.err + streams.out
    if case.status:
        errors = [line for line in lines if line.startswith("error: ")]
        assert errors == (lines[-1:] if case.status < SIGNALS else [])
        left = {name for name in os.listdir() if name not in before} - MADE
        assert not left
    assert Path("old.png").read_bytes() == b"old" and os.listdir("full") == ["thesis.doc"]


def test_every_fault_has_a_case() -> None:
    assert {case.fault for case in CASES} == set(FAULTS)


def test_a_cache_that_cannot_be_had_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert len(hashes.cached_sha256([Path("old.png")])) == 64


def test_data_sets_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SD_SCRATCH_DATA", raising=False)
    assert main(["train", "mnist", "-o", "run", "--max-steps", "1"]) == 2
    assert "HOME is not set) - name the data's folder" in capsys.readouterr().err
