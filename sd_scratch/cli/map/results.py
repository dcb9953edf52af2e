"""Where an experiment's results go: a folder of pictures, tables, raw tensors and the settings."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save
from torch import Tensor

import sd_scratch
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import check_target, write_file
from sd_scratch.mapping.maps import Map
from sd_scratch.pictures.png import encode_png
from sd_scratch.pipeline.recipe import Recipe

SETTINGS = "settings.json"
DEFAULT = Path("out")


class Results:
    """Writes files into a folder, each whole or not at all, and prints their paths.

    Without a folder the first free one of ``out/EXPERIMENT-0001``, ... is made when there is something to
    put there. Raises ScratchError
    (bad usage) where results are there already and `overwrite` is false, or nothing can be written.
    """

    def __init__(self, folder: Path | None, experiment: str, *, overwrite: bool = False) -> None:
        self.experiment = experiment
        self.files: list[str] = []
        self._folder = folder
        if folder is not None and (folder / SETTINGS).exists() and not overwrite:
            raise UsageError(
                f"{folder} holds results already - nothing was made - give --overwrite, or another "
                "folder",
            )
        check_target((folder or DEFAULT) / SETTINGS)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = _free_folder(self.experiment)
        return self._folder

    def picture(self, name: str, image: Image.Image) -> None:
        self.write(name, encode_png(image))

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A CSV file. Texts that a spreadsheet would take for a formula get a space in front."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_tame(value) for value in row] for row in rows)
        self.write(name, text.getvalue().encode())

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """A safetensors file of raw figures."""
        whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        self.write(name, save(whole))

    def maps(self, maps: Sequence[Map], **more: Tensor) -> None:
        """All maps as raw tensors, with a table of what each is and how large it gets."""
        keys = numbered([m.word for m in maps])
        self.tensors(
            "maps.safetensors", {k: m.tensor for k, m in zip(keys, maps, strict=True)} | more
        )
        rows = [
            (key, m.word, m.method, m.units, float(m.tensor.mean()), float(m.tensor.max()))
            for key, m in zip(keys, maps, strict=True)
        ]
        self.table("maps.csv", ("tensor", "word", "method", "units", "mean", "largest"), rows)

    def settings(self, recipe: Recipe, **more: Any) -> None:
        """What was done, as JSON; written last, so that it also says that the results are complete."""
        data = {
            "version": sd_scratch.__version__,
            "experiment": self.experiment,
            **recipe.known,
            **more,
            "files": list(dict.fromkeys(self.files)),
        }
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
        self.write(SETTINGS, text.encode())

    def write(self, name: str, data: bytes) -> None:
        self.keep(name, data)
        print(self.folder / name, flush=True)

    def keep(self, name: str, data: bytes) -> None:
        """Write without saying so: what only a later run will read."""
        write_file(self.folder / name, data, overwrite=True)
        self.files.append(name)


def numbered(words: Sequence[str]) -> list[str]:
    """Names for words that may repeat: ``1-red``, ``2-circle``, ..."""
    return [f"{i}-{word}" for i, word in enumerate(words, start=1)]


def _free_folder(experiment: str) -> Path:
    """Make the first free folder; of several processes each gets its own."""
    for number in count(1):
        folder = DEFAULT / f"{experiment}-{number:04}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.parent.is_dir():
                raise ScratchError(f"{folder.parent} is a file - name a folder with -o") from None
        except OSError as error:
            raise ScratchError(
                f"cannot make {folder} - {error.strerror} - name one with -o"
            ) from None
        else:
            return folder
    raise AssertionError


def _tame(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f" {value}" if isinstance(value, str) and value[:1] in "=+-@" else value
