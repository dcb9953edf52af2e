"""Where a model is, from what a user typed."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sd_scratch.checkpoints.parts import Part
from sd_scratch.checkpoints.shipped import list_shipped, shipped_model, weights_folder
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
ADDRESS = re.compile(r"https?://(?:(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)/?$)?")
WEIGHT_SUFFIXES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}


@dataclass(frozen=True)
class Place:
    """A folder or file on disk, and what the model in it is called."""

    path: Path
    name: str


def locate(
    source: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    part: Part | None = None,
) -> Place:
    """Find a model: a shipped one or ``sd15`` by name, then a path, then the hub (downloading it, or no more
    than one `part` of it).

    Raises ScratchError listing the places looked at when there is nothing.
    """
    text = str(source)
    if not text.strip():
        raise UsageError("an empty name of a model - give a name, a path or a hub id")
    shipped = shipped_model(text)
    path = at_home(text)
    if shipped is not None:
        return Place(shipped, text)
    if path.is_dir():
        return Place(path, path.resolve().name)
    if path.exists():
        return Place(path, path.stem)
    is_hub_id = HUB_ID.fullmatch(text) and Path(text).suffix.lower() not in WEIGHT_SUFFIXES
    if text == "sd15" or is_hub_id:
        from sd_scratch.checkpoints.hub import download

        try:
            folder = download(text, revision=revision, offline=offline, part=part)
        except ScratchError as error:
            near = [] if text == "sd15" else _neighbours(text, path)
            hint = f" - or did you mean {' or '.join(near)}?" if near else ""
            raise type(error)(f"{error}{hint}") from None
        return Place(folder, text.split("/")[-1])
    raise _not_found(text, path)


def called(source: str, *, ending: bool = True) -> str:
    """A model's name for others, without its path on this machine. A folder and a file
    go by their own names, a file without its `ending` if so wanted."""
    path = at_home(source)
    if source in list_shipped() or not path.exists():
        return source
    return path.resolve().name if path.is_dir() else path.name if ending else path.stem


def _not_found(text: str, path: Path) -> ScratchError:
    if found := ADDRESS.match(text):
        what = f"give {found['name']}" if found["name"] else "download its file and give the path"
        return UsageError(f"{text} - an address, and no path or hub id - {what}")
    if path.is_symlink():
        return UsageError(f"{text} - a link to {path.readlink()}, which is not there")
    names = [*list_shipped(), "sd15"]
    near = _neighbours(text, path, *names)
    known = f"the models by name are {', '.join(names)}"
    hint = f"did you mean {' or '.join(near)}?" if near else known
    return UsageError(
        f"{text} - no such model; looked for {path.absolute()} and in {weights_folder()} - {hint}"
        " (a model of the hub is called OWNER/NAME)"
    )


def _neighbours(text: str, path: Path, *names: str) -> list[str]:
    """The names, and the files and folders beside `path`, that are spelt nearly as `text`."""
    beside = []
    if path.parent.is_dir():
        beside = [str(path.parent / place.name) for place in path.parent.iterdir()]
    return difflib.get_close_matches(text, [*names, *beside], n=3, cutoff=0.6)
