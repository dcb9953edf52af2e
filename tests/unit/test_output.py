import io
import sys
from pathlib import Path

import pytest

from sd_scratch.cli.output import DEFAULT, Output, check_folder, slug
from sd_scratch.errors import ScratchError, UsageError

VALUES = {
    "seed": 7,
    "prompt": "a red circle / ../x",
    "model": "owner/name",
    "sampler": "ddim",
    "steps": 25,
    "cfg": "7.5",
    "width": 512,
    "height": 512,
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(target: str | None, times: int = 1, **options: bool) -> list[str]:
    output = Output(target, pictures=times, **options)
    output.check()
    return [output.save(b"x", VALUES) for _ in range(times)]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (None, ["out/7-0000.png", "out/7-0001.png"]),
        ("{index}.png", ["0.png", "1.png"]),
        ("{seed}.png", ["7.png", "7-1.png"]),
        ("new/folder/{index:03}.PNG", ["new/folder/000.PNG", "new/folder/001.PNG"]),
        ("{prompt}-{model}-{index}.png", [f"a-red-circle-..-x-owner-name-{i}.png" for i in (0, 1)]),
        (
            "{sampler}_{steps}_{cfg}_{width}x{height}.png",
            ["ddim_25_7.5_512x512.png", "ddim_25_7.5_512x512-1.png"],
        ),
        ("{{x}}{seed:05}.png", ["{x}00007.png", "{x}00007-1.png"]),
    ],
)
def test_templates(target: str | None, names: list[str]) -> None:
    assert save(target, 2) == names
    assert all(Path(name).read_bytes() == b"x" for name in names)


def test_numbers_go_on_from_what_exists() -> None:
    assert save(None) == ["out/7-0000.png"]
    assert save(None) == ["out/7-0001.png"]


def test_overwrite_counts_from_zero() -> None:
    assert save("{index}.png", 3) == ["0.png", "1.png", "2.png"]
    Path("0.png").write_bytes(b"old")
    assert save("{index}.png", 2, overwrite=True) == ["0.png", "1.png"]
    assert Path("0.png").read_bytes() == b"x"


def test_a_plain_name_that_exists_is_refused_at_once() -> None:
    Path("a.png").write_bytes(b"old")
    with pytest.raises(ScratchError, match=r"a\.png exists.*--overwrite") as caught:
        save("a.png")
    assert isinstance(caught.value, UsageError)
    assert Path("a.png").read_bytes() == b"old"
    assert save("a.png", overwrite=True) == ["a.png"]
    assert Path("a.png").read_bytes() == b"x"


def test_a_plain_name_taken_during_the_run_costs_nobody_a_picture(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output("a.png")
    output.check()
    Path("a.png").write_bytes(b"theirs")
    assert output.save(b"ours", VALUES) == "a-1.png"
    assert Path("a.png").read_bytes() == b"theirs"
    assert "a.png appeared in the meantime: this is a-1.png" in caplog.text


def test_braces_in_a_plain_name() -> None:
    assert save("{{a}}.png") == ["{a}.png"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("a.jpg", "end the name with .png"),
        ("a", "end the name with .png"),
        ("{nothing}.png", "unknown field {nothing}"),
        ("{}.png", "unknown field"),
        ("{seed.__class__}.png", "unknown field"),
        ("{seed[0]}.png", "unknown field"),
        ("{seed:1000000000}.png", "unknown format"),
        ("{seed:{index}}.png", "unknown format"),
        ("{seed.png", "not a template"),
        ("{seed}/a.png", "belong into the file's name"),
        (".png/", "end the name with .png"),
    ],
)
def test_names_that_cannot_be_meant(target: str, reason: str) -> None:
    with pytest.raises(ScratchError, match=reason) as caught:
        Output(target)
    assert isinstance(caught.value, UsageError)


def test_one_name_for_many_pictures_is_refused_with_the_way_out() -> None:
    with pytest.raises(ScratchError, match=r"-o 'a-\{index\}\.png'"):
        Output("a.png", pictures=2)


def test_targets_are_checked_before_anything_is_made() -> None:
    Path("file").touch()
    Path("folder.png").mkdir()
    for target in ("file/a.png", "file/{index}.png", "folder.png"):
        with pytest.raises(ScratchError, match="is a file, not a folder|is a folder"):
            Output(target).check()


def test_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    output = Output("-")
    output.check()
    assert output.save(b"\x89PNG", VALUES) == "-"
    assert stream.buffer.getvalue() == b"\x89PNG"  # type: ignore[attr-defined]
    with pytest.raises(ScratchError, match="one picture, not 2"):
        Output("-", pictures=2)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(ScratchError, match="to the terminal"):
        Output("-")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a red circle", "a-red-circle"),
        ("../../etc/passwd", "etc-passwd"),
        ("漢字", "picture"),
        ("", "picture"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("x" * 500, "x" * 80),
        ("a\0b\nc", "a-b-c"),
    ],
)
def test_slugs_are_safe_names(text: str, name: str) -> None:
    assert slug(text) == name


def test_the_default_is_a_template() -> None:
    assert Output(DEFAULT).numbered


def test_a_name_that_would_be_too_long_is_cut_in_its_texts() -> None:
    values = {**VALUES, "prompt": "very long prompt " * 20}
    output = Output("{prompt}{prompt}{prompt}{prompt}-{seed:020}.png")
    output.check()
    name = output.save(b"x", values)
    assert len(name) < 256 and name.endswith("-" + "7".zfill(20) + ".png")
    with pytest.raises(UsageError, match="name is too long"):
        Output("x" * 230 + "{prompt}{model}.png")


def test_an_unrelated_file_beside_a_template_means_nothing() -> None:
    Path("x.png").symlink_to("/dev/null")
    assert save("{seed}.png") == ["7.png"]


def test_what_may_not_be_replaced_is_not_replaced_at_the_last_moment() -> None:
    output = Output("a.png", overwrite=True)
    output.check()
    Path("a.png").symlink_to("/dev/null")
    with pytest.raises(UsageError, match="symbolic link"):
        output.save(b"x", VALUES)


def test_a_plain_default_takes_a_free_name() -> None:
    names = [Output(None, default="samples.png", fields=()) for _ in range(2)]
    assert [output.save(b"x") for output in names] == ["samples.png", "samples-1.png"]


@pytest.mark.parametrize(("name", "suffix"), [("a.png", ".gif"), ("a.png", ".safetensors")])
def test_each_kind_of_output_has_an_ending(name: str, suffix: str) -> None:
    with pytest.raises(UsageError, match=f"end the name with {suffix}"):
        Output(name, suffix=suffix, fields=())


def test_folders_are_checked_first() -> None:
    Path("file").touch()
    Path("full").mkdir()
    Path("full/a").touch()
    Path("link").symlink_to("elsewhere")
    for folder, reason in (
        ("file", "is there already"),
        ("full", "or give --overwrite"),
        (".", "is there already"),
        ("link", "symbolic link"),
        ("file/new", "is a file, not a folder"),
    ):
        with pytest.raises(ScratchError, match=reason):
            check_folder(Path(folder), overwrite=False)
    check_folder(Path("full"), overwrite=True)
    check_folder(Path("new/deep"), overwrite=False)
    assert Path("new").is_dir() and not Path("new/deep").exists()
