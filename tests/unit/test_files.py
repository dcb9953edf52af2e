import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import (
    check_new_folder,
    check_target,
    new_folder,
    read_file,
    write_file,
    write_numbered,
)


def numbered(folder: Path) -> Iterator[Path]:
    return (folder / f"{i:03}.png" for i in count())


def test_write_file_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    write_file(tmp_path / "a", b"two", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "000.png").touch()
    (tmp_path / "002.png").touch()
    taken = [write_numbered(numbered(tmp_path), b"x").name for _ in range(2)]
    assert taken == ["001.png", "003.png"]


def test_without_hard_links_names_are_still_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*paths: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "link", no_links)
    names = [write_numbered(numbered(tmp_path), b"x").name for _ in range(3)]
    assert names == ["000.png", "001.png", "002.png"]
    assert sorted(os.listdir(tmp_path)) == names


def _write_many(folder: Path, worker: int) -> None:
    for i in range(25):
        write_numbered(numbered(folder), f"{worker} {i}".encode() * 1000)


def test_eight_processes_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(tmp_path, n)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = sorted(os.listdir(tmp_path))
    assert names == [f"{i:03}.png" for i in range(200)]
    assert len({(tmp_path / name).read_bytes() for name in names}) == 200


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ScratchError, match="disk is full"):
        write_file(tmp_path / "a", b"one")
    assert os.listdir(tmp_path) == []


def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ScratchError, match="larger than this system allows"):
            write_file(tmp_path / "a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


def test_check_target_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "deep" / "a.png")
    assert os.listdir(tmp_path / "new" / "deep") == []


def test_targets_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path, reason in (
        (Path("/dev/null"), "a device or a pipe"),
        (tmp_path / "pipe", "a device or a pipe"),
        (tmp_path / "link", "symbolic link"),
        (tmp_path, "is a folder"),
        (tmp_path / "real" / "a.png", "is a file, not a folder"),
        (tmp_path / ("n" * 300) / "a.png", "name is too long"),
    ):
        with pytest.raises(ScratchError, match=reason):
            check_target(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ScratchError, match="permission denied"):
        check_target(tmp_path / "a.png")


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "deep" / "a") as part:
        write_file(part / "one", b"1")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "deep") == []
    with new_folder(tmp_path / "deep" / "a") as part:
        write_file(part / "one", b"1")
        assert not (tmp_path / "deep" / "a").exists()
    assert os.listdir(tmp_path / "deep" / "a") == ["one"]
    with pytest.raises(UsageError, match="there already"), new_folder(tmp_path / "deep" / "a"):
        pass


def test_a_folder_is_replaced_where_it_holds_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").touch()
    with new_folder(tmp_path / "a", ("*.txt",)) as part:
        write_file(part / "new.txt", b"1")
    assert os.listdir(tmp_path / "a") == ["new.txt"]
    (tmp_path / "a" / "thesis.doc").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.doc"):
        check_new_folder(tmp_path / "a", ("*.txt",))
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_a_folder_that_appears_in_the_meantime_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there already"), new_folder(tmp_path / "a") as part:
        write_file(part / "ours", b"1")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["theirs"]


def test_what_is_replaced_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(UsageError, match="symbolic link"):
        write_file(tmp_path / "a", b"1", overwrite=True)
    assert os.listdir(tmp_path) == ["a"]


def test_reading_waits_for_nothing_and_reads_no_more_than_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    for path, reason in (
        (tmp_path / "a", "larger than 4 bytes"),
        (tmp_path / "pipe", "a device or a pipe"),
        (Path("/dev/zero"), "a device or a pipe"),
        (tmp_path, "a folder, not a file"),
        (tmp_path / "none", "no such file"),
        (Path("a\0b"), "not a path"),
        (Path("a\ud800"), "not a path"),
    ):
        with pytest.raises(ScratchError, match=reason):
            read_file(path, 4)
