"""Writing files whole or not at all, without loss of what exists; and reading untrusted ones.

Bytes go into a temporary file in the target's own folder, reach the disk, and are then given their
name in one atomic step: `write_file` puts them at one path, `write_numbered` at the first free one of
many, which also holds when several processes choose names at the same moment. `new_folder` makes a whole
folder likewise, and `filled_folder` puts files into an existing one.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from sd_scratch.errors import ScratchError, UsageError

CAUSES = {
    errno.ENOSPC: "the disk is full: make room and run again",
    errno.EDQUOT: "your quota is used up: make room and run again",
    errno.EFBIG: "larger than this system allows: choose another place",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.EROFS: "read-only file system: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another path",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}
MEGABYTE = 1_000_000
FILLED = ".new.part"  # in a folder, what `filled_folder` is going to put there
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


def at_home(path: str | Path) -> Path:
    """A path, in which ``~`` is a user's home. Raises UsageError where there is no such user, and for what no
    path can be: too long, or with characters that this system's names cannot have."""
    try:
        path = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
    except RuntimeError:
        raise UsageError(f"{path} - there is no such user on this machine") from None
    except TypeError:
        raise UsageError(f"{path!r:.80} - not a path: give a text") from None
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise UsageError(f"{str(path)[:80]!a} - not a path: {error}") from None
    except OSError as error:
        raise UsageError(f"{str(path)[:80]} - not a path: {_reason(error)}") from None
    return path


@contextlib.contextmanager
def open_file(path: Path, limit: int | None = None) -> Iterator[BinaryIO]:
    """A regular file for reading, of at most `limit` bytes.

    Raises ScratchError, in one line that begins with the path: nothing is there, a folder, a device or a
    pipe (which are never waited for), no permission, too large.
    """
    try:
        # Without waiting: a pipe without a writer would never open.
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError as error:
        raise ScratchError(f"{path} - cannot be read: {_reason(error)}") from None
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise ScratchError(f"{str(path)!a} - not a path: {error}") from None
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise ScratchError(f"{path} - a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ScratchError(f"{path} - a device or a pipe, not a regular file")
        if limit is not None and status.st_size > limit:
            raise ScratchError(f"{path} - larger than {_size(limit)} - not read")
    except BaseException:
        os.close(handle)
        raise
    try:
        with os.fdopen(handle, "rb") as file:
            yield file
    except OSError as error:
        raise ScratchError(f"{path} - cannot be read: {_reason(error)}") from None


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes. Raises ScratchError as `open_file`."""
    with open_file(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it has grown meanwhile
        raise ScratchError(f"{path} - larger than {_size(limit)} - not read")
    return data


def write_file(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, overwrite: bool = False
) -> None:
    """Put `data`, given whole or in pieces, at `path`: all of it, or nothing.

    Raises:
        FileExistsError: something is there already, and `overwrite` is false.
        UsageError: what would be replaced is no regular file.
        ScratchError: the file cannot be written; the line says why. Nothing is left behind.
    """
    with _errors_about(path), _temporary(path.parent, data) as part:
        if overwrite:
            _refuse_irregular(path)
            os.replace(part, path)
        else:
            _give_name(part, path)
        _flush_folder(path.parent)


def write_numbered(names: Iterable[Path], data: bytes | Iterable[bytes | memoryview]) -> Path:
    """Put `data`, given whole or in pieces, at the first of `names` where nothing is yet, and return that path.

    `names` is endless, and all of them lie in one folder. Raises ScratchError when the file cannot be written. Nothing is left behind.
    """
    names = iter(names)
    path = next(names)
    with _errors_about(path), _temporary(path.parent, data) as part:
        while True:
            try:
                _give_name(part, path)
            except FileExistsError:
                path = next(names)
            else:
                _flush_folder(path.parent)
                return path


class Spool:
    """Bytes that are to go to `path` and wait on its disk, in a file without a name, not in memory.

    `add` raises ScratchError where they cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _errors_about(path):
            self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - as long as this lives

    def add(self, data: bytes | memoryview) -> None:
        with _errors_about(self.path):
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()

    def pieces(self) -> Iterator[bytes]:
        """All that was added, a megabyte at a time."""
        self._file.seek(0)
        while piece := self._file.read(MEGABYTE):
            yield piece


def check_target(path: Path) -> None:
    """Refuse a path that no regular file could be written to; make its folder where it is missing.

    Raises ScratchError for folders, devices, pipes, symbolic links (replacing one would not write
    to what it points at), and folders without permission or space for a single byte.
    """
    with _errors_about(path):
        _refuse_irregular(path)
        with _temporary(path.parent, b"\0"):
            pass


def check_new_folder(folder: Path, replaceable: Sequence[str] = ()) -> None:
    """Refuse a folder that `new_folder` could not make; make its parents where they are missing.

    Raises ScratchError (mostly UsageError) where something is there that is not an empty folder, or a
    folder with nothing in it but files whose names match `replaceable`.
    """
    with _errors_about(folder):
        if folder.is_symlink():
            raise UsageError(f"{folder} is a symbolic link - name the folder itself")
        if folder.exists():
            there = [file.name for file in folder.iterdir()] if folder.is_dir() else [""]
            other = [n for n in there if not any(fnmatchcase(n, glob) for glob in replaceable)]
            if other or folder.samefile("."):
                holds = f" and holds {other[0]}" if replaceable and other and other[0] else ""
                raise UsageError(f"{folder} is there already{holds} - name a new folder")
        with _temporary(folder.absolute().parent, b"\0"):
            pass


@contextlib.contextmanager
def new_folder(folder: Path, replaceable: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write into, which is called `folder` once the block has ended: all of it or nothing.

    A folder that is there already is replaced as `check_new_folder` allows. Raises as that does.
    """
    check_new_folder(folder, replaceable)
    given, folder = folder, folder.absolute()
    part = folder.with_name(f".{secrets.token_hex(8)}.part")
    old = folder.with_name(f".{secrets.token_hex(8)}.old")
    try:
        part.mkdir()
        with _called(part, given):
            yield part
        with _errors_about(folder):
            check_new_folder(folder, replaceable)  # it may have appeared in the meantime
            if folder.exists() and any(folder.iterdir()):
                os.replace(folder, old)
            os.replace(part, folder)
            _flush_folder(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def filled_folder(folder: Path, stale: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write into. Once the block has ended, its files are in `folder`: over those of the same
    names, and what else matches `stale` there goes. Until then nothing in `folder` changes.

    Raises ScratchError where another process does the same there, and as `new_folder`.
    """
    if not folder.exists():
        with new_folder(folder) as part:
            yield part
        return
    part = folder / FILLED
    with _errors_about(part):
        try:
            part.mkdir()
        except FileExistsError:
            raise ScratchError(
                f"{folder} - another process writes into it, or was killed there: then remove {part}"
            ) from None
    try:
        with _called(part, folder):
            yield part
        with _errors_about(folder):
            names = [file.relative_to(part) for file in part.rglob("*") if file.is_file()]
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part / name, folder / name)
            for file in [file for glob in stale for file in folder.glob(glob)]:
                if file.relative_to(folder) not in names:
                    file.unlink()
            _flush_folder(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _called(part: Path, given: Path) -> Iterator[None]:
    """Errors inside name the given folder instead of `part`, which users do not know."""
    try:
        yield
    except ScratchError as error:
        raise type(error)(str(error).replace(str(part), str(given))) from None


def _refuse_irregular(path: Path) -> None:
    """Raise where something is at `path` that is not a regular file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder - name a file in it")
    if stat.S_ISLNK(mode):
        raise UsageError(f"{path} is a symbolic link - name the file itself")
    raise UsageError(f"{path} is a device or a pipe - name a regular file")


@contextlib.contextmanager
def _temporary(folder: Path, data: bytes | Iterable[bytes | memoryview]) -> Iterator[Path]:
    """A file in `folder` (made where it is missing) that holds `data`, on the disk; gone at the end
    unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{secrets.token_hex(8)}.part"
    # Not the tempfile module: its files are readable by their owner alone, whatever the umask says.
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, path: Path) -> None:
    """Name the file `part` `path`, or raise FileExistsError; of several processes one succeeds."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A file system without hard links: claim the name with an empty file, then replace that.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            os.replace(part, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    """Bring the new name to the disk too, on systems where a folder can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _errors_about(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        # mkdir raises this one too, where a file stands in the way of a folder.
        if path.parent.exists() and not path.parent.is_dir():
            raise explained(path, NotADirectoryError(errno.ENOTDIR, "")) from None
        raise error
    except OSError as error:
        raise explained(path, error) from None


def explained(path: Path, error: OSError) -> ScratchError:
    """The error of writing a file, in one line with its cause."""
    cause = CAUSES.get(error.errno or 0) or f"{error.strerror or error}: choose another place"
    return ScratchError(f"cannot write {path} - {cause}")


def _size(limit: int) -> str:
    return f"{limit // MEGABYTE:,} MB" if limit >= MEGABYTE else f"{limit:,} bytes"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
