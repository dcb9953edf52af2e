"""Data sets by hand: what is written is read, and varied as it should be."""

import csv
import gzip
from pathlib import Path

import pytest
import torch
from PIL import Image

from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.training.pixels.batches import Batches, mirror_half, shift_each
from sd_scratch.training.pixels.cifar import read_batches
from sd_scratch.training.pixels.datasets import (
    BATCHES,
    CIFAR10,
    TEST_FILE,
    TRAIN_FILES,
    data_folder,
    load_data,
)
from sd_scratch.training.pixels.idx import read_idx
from sd_scratch.training.pixels.images import to_pixels
from sd_scratch.training.pixels.pictures import kept_for_tests, read_pictures
from tests.digits import digits, write_batch, write_idx


def write_mnist(folder: Path, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", 60), ("t10k", 20)):
        data = digits(count, side=28)
        for name, values in (
            (f"{stem}-images-idx3-ubyte", data.images[:, 0]),
            (f"{stem}-labels-idx1-ubyte", data.labels.to(torch.uint8)),
        ):
            write_idx(folder / name, values)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
                (folder / name).unlink()


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_gzipped_or_not(tmp_path, packed):
    write_mnist(tmp_path, packed)
    data = load_data("mnist", tmp_path)
    assert data.train.images.shape == (60, 1, 28, 28)
    assert torch.equal(data.train.images, digits(60, side=28).images)
    assert torch.equal(data.test.labels, digits(20).labels)


def test_idx_bytes_are_big_endian_counts_then_values(tmp_path):
    path = tmp_path / "x"
    write_idx(path, torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8))
    assert path.read_bytes() == bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
    assert read_idx(path, 2).tolist() == [[1, 2, 3], [4, 5, 255]]


def test_cifar_batches_are_read_in_order(tmp_path):
    folder = tmp_path / BATCHES
    folder.mkdir()
    for i, name in enumerate((*TRAIN_FILES, TEST_FILE)):
        write_batch(folder / name, digits(10, side=32, channels=3, seed=i))
    data = load_data("cifar10", tmp_path)
    assert len(data.train) == 50
    assert torch.equal(data.train.images[20:30], digits(10, 32, 3, seed=2).images)
    assert torch.equal(read_batches(folder, (TEST_FILE,), CIFAR10).images, data.test.images)


def test_a_cifar_record_is_a_label_then_red_green_blue(tmp_path):
    red = bytes([3]) + bytes([250]) * 1024 + bytes([7]) * 1024 + bytes([9]) * 1024
    (tmp_path / "test_batch.bin").write_bytes(red)
    data = read_batches(tmp_path, (TEST_FILE,), CIFAR10)
    assert data.labels.tolist() == [3]
    assert data.images[0, :, 5, 6].tolist() == [250, 7, 9]


def test_pictures_become_squares_of_one_side(tmp_path):
    rows = []
    for i in range(12):
        colour = (200, 0, 0) if i % 2 else (0, 0, 200)
        Image.new("RGB", (40 + i, 30), colour).save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", "red" if i % 2 else "blue"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    data = read_pictures(tmp_path, 16)
    assert data.class_names == ("blue", "red")
    assert data.images.shape == (12, 3, 16, 16)
    assert data.images[1, :, 8, 8].tolist() == [200, 0, 0]
    split = load_data("pictures", tmp_path)
    assert (len(split.train), len(split.test)) == (11, 1)


ROWS = ["file,label"] + [f"{i}.png,{'ab'[i % 2]}" for i in range(20)]
TABLES = {
    "commas, a mark and CRLF": "\r\n".join(ROWS).encode("utf-8-sig"),
    "semicolons": "\n".join(ROWS).replace(",", ";").encode(),
    "tabs in UTF-16": "\r\n".join(ROWS).replace(",", "\t").encode("utf-16"),
    "UTF-16 the other way round": b"\xfe\xff" + "\n".join(ROWS).encode("utf-16-be"),
    "a space after the comma": "\n".join(ROWS).replace(",", " , ").encode(),
    "quotes": "\n".join(f'"{row}"'.replace(",", '","') for row in ROWS).encode(),
    "capitals and empty lines": ("\n".join(["File,Label", *ROWS[1:]]) + "\n,\n\n").encode(),
    "a hint for Excel": ("sep=;\n" + "\n".join(ROWS).replace(",", ";")).encode(),
    "another order and more columns": "\n".join(
        ",".join(["x", *reversed(row.split(","))]) for row in ROWS
    ).encode(),
    "backslashes": "\n".join([ROWS[0], *(f".\\sub\\{row}" for row in ROWS[1:])]).encode(),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, table, caplog):
    (tmp_path / "sub").mkdir()
    for i in range(20):
        for folder in (tmp_path, tmp_path / "sub"):
            Image.new("RGB", (8, 8), (i,) * 3).save(folder / f"{i}.png")
    (tmp_path / "labels.csv").write_bytes(table)
    data = read_pictures(tmp_path, 8)
    assert not caplog.text
    assert data.class_names == ("a", "b") and data.labels.tolist() == [0, 1] * 10
    assert data.images[:, 0, 0, 0].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([20] * 10, [2] * 10),
        ([100, 10, 10], [10, 1, 1]),
        ([5] * 8, [0, 1, 0, 1, 0, 1, 0, 1]),
        ([9, 1, 2], [0, 0, 1]),  # never the last picture of a class
        ([1] * 12, [0] * 12),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_one_picture_in_ten_of_every_class_is_kept_for_tests(sizes, expected, turned):
    """Whether classes come one after the other or in turn."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if turned:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    kept = kept_for_tests(labels)
    assert labels[kept].bincount(minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_pixels_are_bytes_in_another_range(low):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = to_pixels(images, low)
    assert float(pixels.min()) == low and float(pixels.max()) == pytest.approx(1.0)
    assert torch.equal(to_bytes((pixels - low) / (1 - low)), images)


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order():
    batches = Batches(digits(40), 10, seed=3)
    first = torch.cat([batches.rows(step) for step in range(4)])
    second = torch.cat([batches.rows(step) for step in range(4, 8)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert not torch.equal(first, second)
    assert torch.equal(Batches(digits(40), 10, seed=3).rows(6), batches.rows(6))


def test_variations_keep_the_pictures():
    images = digits(20).images
    mirrored = mirror_half(images, torch.Generator().manual_seed(0))
    same = (mirrored == images).flatten(1).all(1)
    assert 0 < same.sum() < 20
    assert torch.equal(mirrored[~same], images[~same].flip(-1))

    shifted = shift_each(images, 2, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    padded = torch.nn.functional.pad(images[0, 0], (2,) * 4)
    windows = padded.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 8, 8)
    assert any(torch.equal(window, shifted[0, 0]) for window in windows)


def test_data_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SD_SCRATCH_DATA", str(tmp_path))
    assert data_folder("mnist") == tmp_path / "mnist"


def test_the_real_files_are_read(shared_data):
    data = load_data("mnist", shared_data / "mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]
