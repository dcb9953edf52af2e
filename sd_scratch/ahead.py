"""The weights of a checkpoint, read while PyTorch is still being imported.

Both take seconds, the one of the disk and the other of a processor. What is read here is guessed from a path and a
header alone. Whoever loads the model checks everything as ever and takes from here what fits, to the byte; whatever
was not wanted is let go of. Files are read and never mapped: one that is cut while it is mapped kills the process.
"""

import json
import mmap
import threading
from contextlib import suppress
from pathlib import Path

FOLDERS = (
    "text_encoder",
    "unet",
    "vae",
)  # of a diffusers folder, in the order in which they are filled
SHARE = 2  # one part in so many of the memory that is free is taken at most
SMALL = 1 << 16  # bytes; what is smaller is read as fast when it is wanted
MEMINFO = Path("/proc/meminfo")

Place = tuple[str, int, int]
"""A file, and from which byte to which."""


class Ahead:
    """A thread that reads the tensors of some files, one after the other, until `close` is called."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._found: dict[Place, mmap.mmap] = {}
        self._closed = False
        self._left = _free_memory() // SHARE
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self, file: Path, begin: int, end: int) -> mmap.mmap | None:
        """The bytes of a file from `begin` to `end`, once; None where they were not read."""
        return self._found.pop((str(file), begin, end), None)

    def close(self) -> None:
        """Read no more; what was read stays to be taken."""
        self._closed = True
        self._thread.join()

    def _read(self) -> None:
        for path in self._files:
            with (
                suppress(OSError, ValueError, KeyError, TypeError, AttributeError),
                path.open("rb", buffering=0) as file,
            ):
                start = 8 + int.from_bytes(file.read(8), "little")
                entries = json.loads(file.read(min(start - 8, self._left)))
                entries.pop("__metadata__", None)
                for entry in entries.values():
                    begin, end = (start + int(offset) for offset in entry["data_offsets"])
                    if end - begin < SMALL:
                        continue
                    self._left -= end - begin
                    if self._closed or self._left < 0:
                        return
                    memory = mmap.mmap(-1, end - begin)  # of its own, given back when it is let go
                    file.seek(begin)
                    if file.readinto(memory) == end - begin:
                        self._found[str(path), begin, end] = memory


def read_ahead(source: str | None) -> Ahead | None:
    """Begin to read what a model's path names, a diffusers folder or a ``.safetensors`` file; None for anything
    else, which is no mistake here."""
    with suppress(OSError, RuntimeError):
        path = Path(source or "").expanduser()
        if source and path.is_file() and path.suffix == ".safetensors":
            return Ahead([path])
        if source and (path / "model_index.json").is_file():
            files = [sorted((path / folder).glob("*.safetensors")) for folder in FOLDERS]
            return Ahead([found[0] for found in files if len(found) == 1])
    return None


def _free_memory() -> int:
    """Bytes that can be taken without swapping; 0 where nothing says so."""
    with suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
