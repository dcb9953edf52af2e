"""Data files that are missing, cut, swapped, damaged or of another kind: one line each."""

import gzip
import os
import struct
from pathlib import Path

import pytest
from PIL import Image

from sd_scratch.errors import ScratchError
from sd_scratch.training.pixels.cifar import read_batches
from sd_scratch.training.pixels.datasets import CIFAR10, TEST_FILE, load_data
from sd_scratch.training.pixels.idx import read_idx
from sd_scratch.training.pixels.pictures import read_pictures
from tests.unit.test_pixel_data import write_mnist

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def refused(*words: str):
    """The error has these words, and is one line."""
    return pytest.raises(ScratchError, match=r"(?s)\A(?!.*\n).*" + ".*".join(words))


def test_a_missing_folder_says_how_to_fetch_the_data(tmp_path):
    with refused("no such folder", "sd-scratch data mnist"):
        load_data("mnist", tmp_path / "none")


def test_a_missing_file(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / LABELS).unlink()
    with refused(LABELS, "no such file"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 5, 40, 0.5, 0.99])
def test_a_cut_archive(tmp_path, kept):
    write_mnist(tmp_path)
    path = tmp_path / IMAGES
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with refused(IMAGES, "get it again|another file"):
        load_data("mnist", tmp_path)


def test_a_cut_plain_file(tmp_path):
    write_mnist(tmp_path, packed=False)
    path = tmp_path / IMAGES.removesuffix(".gz")
    path.write_bytes(path.read_bytes()[:-100])
    with refused("cut short: 46,940 of 47,040"):
        load_data("mnist", tmp_path)


def test_too_many_values(tmp_path):
    write_mnist(tmp_path, packed=False)
    path = tmp_path / IMAGES.removesuffix(".gz")
    path.write_bytes(path.read_bytes() + b"x")
    with refused("more values"):
        load_data("mnist", tmp_path)


def test_swapped_pictures_and_labels(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / IMAGES).rename(tmp_path / "x")
    (tmp_path / LABELS).rename(tmp_path / IMAGES)
    (tmp_path / "x").rename(tmp_path / LABELS)
    with refused(IMAGES, "holds labels where pictures belong", "swapped"):
        load_data("mnist", tmp_path)


def test_training_labels_beside_test_pictures(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / IMAGES).write_bytes((tmp_path / IMAGES.replace("train", "t10k")).read_bytes())
    with refused("20 pictures but 60 labels"):
        load_data("mnist", tmp_path)


def test_training_and_test_set_swapped(tmp_path):
    write_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"x{path.name}")
    for path in list(tmp_path.iterdir()):
        other = path.name[1:].replace("train", "T").replace("t10k", "train").replace("T", "t10k")
        path.rename(tmp_path / other)
    with refused("more pictures for tests"):
        load_data("mnist", tmp_path)


def test_a_label_out_of_range(tmp_path):
    write_mnist(tmp_path)
    data = bytearray(gzip.decompress((tmp_path / LABELS).read_bytes()))
    data[8 + 17] = 12
    (tmp_path / LABELS).write_bytes(gzip.compress(bytes(data), mtime=0))
    with refused("label 12 of picture 17 is not in 0..9"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>not found</html>", "not an IDX file"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 20, 1 << 10, 1 << 10), "announces"),
        (struct.pack(">BBBB", 0, 0, 8, 3), "cut short"),
        (b"\x1f\x8bnot gzip at all", "damaged"),
        (gzip.compress(bytes(4000), mtime=0)[:-12] + b"\xff" * 12, "damaged|not an IDX"),
    ],
)
def test_files_of_another_kind(tmp_path, data, words):
    (tmp_path / "x").write_bytes(data)
    with refused(words):
        read_idx(tmp_path / "x", 3)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 3073 * 2 - 1])
def test_cifar_files_of_a_wrong_size(tmp_path, size):
    (tmp_path / TEST_FILE).write_bytes(bytes(size))
    with refused(TEST_FILE, "whole records"):
        read_batches(tmp_path, (TEST_FILE,), CIFAR10)


def test_cifar_labels_out_of_range(tmp_path):
    (tmp_path / TEST_FILE).write_bytes(bytes(3073) + bytes([10]) + bytes(3072))
    with refused("label 10 of picture 1"):
        read_batches(tmp_path, (TEST_FILE,), CIFAR10)


def test_files_are_regular_and_inflate_to_what_a_data_set_may_have(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 40_000, 100, 100)
    (tmp_path / "bomb").write_bytes(gzip.compress(header + bytes(1000)))
    (tmp_path / "long").write_bytes(b"")
    os.truncate(tmp_path / "long", 400 << 20)
    with refused("a pipe"):
        read_idx(tmp_path / "pipe", 3)
    with refused("announces 400,000,000 bytes"):
        read_idx(tmp_path / "bomb", 3)
    for read in (
        lambda: read_idx(tmp_path / "long", 3),
        lambda: read_batches(tmp_path, ("long",), CIFAR10),
    ):
        with refused("larger than"):
            read()


def write_pictures(folder: Path, table: str | bytes) -> None:
    Image.new("RGB", (9, 9)).save(folder / "good.png")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:40])
    (folder / "labels.csv").write_bytes(table.encode() if isinstance(table, str) else table)


def test_broken_pictures_are_listed_and_left_out(tmp_path, caplog):
    table = "file,label\ngood.png,a\ntext.png,a\ncut.png,b\ngone.png,b\n"
    write_pictures(tmp_path, table)
    data = read_pictures(tmp_path, 8)
    assert len(data) == 1
    for name in (
        "text.png (not a PNG",
        "cut.png (not a PNG",
        "gone.png (cannot be read: no such file",
    ):
        assert name in caplog.text


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "first line must name"),
        ("name,kind\ngood.png,a\n", "first line must name"),
        ("file,label\ngood.png\n", "line 2 lacks"),
        ("file,label\ntext.png,a\n", "no picture could be read"),
        ("file,label\n\n,\n", "names no picture"),
        ("sep=;\nfile;label\n\ngood.png\n", "line 4 lacks"),
        ("file,label\ngood.png,a\x1b[2J\n", "line 2: its label"),
        ("sep=\nfile;label\n", "cannot be read as a table"),
        (b"file,label\ngood.png,\xe4\n", "not UTF-8 text.*save it again"),
        ("file,label\ngood.png,a\n".encode("utf-16-le"), "not UTF-8 text"),
        (b'file,label\n"' + b"x" * 200_000, "cannot be read as a table"),
        ('file,label\ngood.png,"a\n', "cannot be read as a table"),
        ('file,label\ngood.png,"a\ngood.png,b"\n', "or several lines"),
        ("file,label\ngood.png,a,b\n", "line 2 has more cells"),
        ("file,label,label\ngood.png,a,b\n", "each once"),
        ("file,label\ngood.png,a\ngood.png,b\n", "good.png has two labels, a and b"),
        ("file,label\ngood.png,a\n.\\good.png,b\n", "has two labels, a and b"),
    ],
)
def test_malformed_tables(tmp_path, table, words):
    write_pictures(tmp_path, table)
    with refused(words):
        read_pictures(tmp_path, 8)


@pytest.mark.parametrize(
    "name",
    [
        "/dev/zero",
        "../good.png",
        "a/../../good.png",
        "C:\\good.png",
        "\\\\host\\good.png",
        "pipe",
        "sub",
        ".",
    ],
)
def test_a_table_names_regular_files_of_its_folder_alone(tmp_path, name, caplog):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    write_pictures(folder, f"file,label\ngood.png,a\n{name},a\n")
    assert len(read_pictures(folder, 8)) == 1
    assert "left out" in caplog.text


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_three_formats_are_read_and_no_others(tmp_path, kind, caplog):
    write_pictures(tmp_path, "file,label\ngood.png,a\nother.png,a\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png", format=kind)
    assert len(read_pictures(tmp_path, 8)) == 1
    assert "other.png" in caplog.text


def test_a_table_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "labels.csv")
    with refused("labels.csv", "not a regular file"):
        read_pictures(tmp_path, 8)


def test_one_name_in_two_spellings_of_its_accents(tmp_path):
    """As Linux and a Mac write it."""
    linux, mac = "\u00e9", "e\u0301"
    write_pictures(tmp_path, f"file,label\n{linux}.png,{linux}\ngood.png,{mac}\n")
    (tmp_path / f"{mac}.png").write_bytes((tmp_path / "good.png").read_bytes())
    data = read_pictures(tmp_path, 8)
    assert data.class_names == (linux,) and len(data) == 2


def test_nothing_can_be_kept_for_tests_of_single_pictures(tmp_path):
    write_pictures(tmp_path, "file,label\n" + "".join(f"{i}.png,{i}\n" for i in range(12)))
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "good.png").read_bytes())
    with refused("one picture alone"):
        load_data("pictures", tmp_path)


def test_a_folder_without_a_table(tmp_path):
    with refused("labels.csv", "no such file"):
        read_pictures(tmp_path, 8)
