"""The commands for models on pixels, from data to pictures, with presets that take no time."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sd_scratch.checkpoints import pixel_model
from sd_scratch.cli import Parser, main, sample
from sd_scratch.errors import UsageError
from sd_scratch.training.pixels.datasets import DATA_SETS, DataRow
from sd_scratch.training.pixels.train import train_ddpm
from sd_scratch.training.settings import Budget
from tests.digits import BETTER, JUDGE, digit_data

pytestmark = pytest.mark.usefixtures("tiny_presets")

TINY = ["--batch", "8", "--max-steps", "2"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


@pytest.fixture
def model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("train", "mnist", "--out", tmp_path / "run", *TINY) == 0
    assert last_line(capsys) == str(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def test_train_then_sample(tmp_path, model, capsys):
    sheet = tmp_path / "digits.png"
    assert run("sample", "mnist", "--class", 7, "-b", 16, "-o", sheet, "--model", model) == 0
    assert last_line(capsys) == str(sheet)
    assert Image.open(sheet).size == (2 * (4 * 10 + 2),) * 2  # four by four, enlarged twice

    film = tmp_path / "film.gif"
    arguments = [
        "-m",
        model,
        "-b",
        2,
        "-o",
        sheet,
        "--sampler",
        "pndm",
        "--steps",
        3,
        "--overwrite",
    ]
    assert run("sample", "mnist", *arguments, "--film", film) == 0
    assert Image.open(film).n_frames == 3
    assert Image.open(sheet).size[1] == 2 * (10 * 10 + 2)  # one row for every class


def test_the_papers_preset(tmp_path, capsys):
    out = tmp_path / "paper"
    assert run("train", "mnist", "--preset", "paper", "--out", out, *TINY) == 0
    assert run("sample", "mnist", "-m", out / "model", "-o", tmp_path / "x.png") == 0


def test_resume_goes_on_and_refuses_other_settings(tmp_path, model, capsys):
    more = ["train", "mnist", "--out", tmp_path / "run", "--resume", "--max-steps", 3]
    assert run(*more, "--batch", 8) == 0
    assert run(*more, "--batch", 4) == 2
    assert "batch was 8 and is now 4" in capsys.readouterr().err
    assert run("train", "mnist", "--out", tmp_path / "run", *TINY) == 2
    assert "resume it" in capsys.readouterr().err


def test_epochs_timesteps_and_kept_models(tmp_path, capsys):
    out = tmp_path / "run"
    more = ["--preset", "paper", "--batch", 30, "--timesteps", 7, "--keep", 2]
    assert run("train", "mnist", "--out", out, "--epochs", 2, *more) == 0
    grown = sorted((out / "ddpm" / "growth").iterdir())
    assert [path.name for path in grown] == ["0000002", "0000004"]
    assert "2 steps of 30 pictures" in (grown[0] / "README.md").read_text()
    for path in grown:
        assert run("sample", "mnist", "-m", path, "-b", 1, "-o", path / "x.png") == 0
    assert run("train", "mnist", "--out", out, "--export", tmp_path / "again", *more[:-2]) == 0


def test_flags_of_pixels_are_refused_for_scenes(tmp_path, capsys):
    for flag in (["--batch", "8"], ["--data", "x"], ["--preset", "paper"], ["--timesteps", "9"]):
        words = ["train", "scenes", "--stage", "vae", "--out", tmp_path, "--max-steps", 1, *flag]
        assert run(*words) == 2
        assert f"{flag[0]} is for mnist" in capsys.readouterr().err
    assert run("train", "scenes", "--stage", "vae", "--out", tmp_path, "--epochs", 1) == 2
    assert "there are no epochs" in capsys.readouterr().err
    for flag in (["--crowded"], ["--decoder-only"], ["--lr", "1e-3"], ["--init", "scenes"]):
        assert run("train", "scenes", "--evaluate", "scenes", *flag) == 2
        assert f"{flag[0]} is for training" in capsys.readouterr().err
    for more in (["--stage", "clip"], ["--stage", "classifier"]):
        assert run("train", "scenes", *more, "--evaluate", "scenes", "--alike") == 2
        assert "--alike is for the pictures of scenes" in capsys.readouterr().err


def test_an_unfinished_run_is_exported(tmp_path, model, capsys):
    again = tmp_path / "again"
    assert run("train", "mnist", "--out", tmp_path / "run", "--export", again) == 0
    names = ["README.md", "config.json", "model.safetensors", "reverse.gif"]
    assert sorted(path.name for path in again.iterdir()) == names
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_classifier_is_trained_and_judges(tmp_path, model, capsys):
    out = tmp_path / "run"
    assert run("train", "mnist", "--stage", "classifier", "--out", out, "--max-steps", 30) == 0
    judge = last_line(capsys)
    assert judge == str(out / "classifier")
    arguments = ["--evaluate", model, "--count", 20, "--steps", 2]
    assert run("train", "mnist", *arguments, "--classifier", judge) == 0
    table = capsys.readouterr().out
    for words in (
        "ddim, 2 steps, guidance 2\n",
        "class accuracy",
        "Fréchet distance",
        "class accuracy, 9",
    ):
        assert words in table
    assert run("train", "mnist", *arguments) == 2
    assert "who judges?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--max-steps", 1], "where to?"),
        (["--out", "x"], "for how long?"),
        (["--out", "x", "--max-steps", 1, "--init", "scenes"], "--init is for scenes"),
        (["--out", "x", "--max-steps", 1, "--count", 9], "--count is for --evaluate"),
        (["--evaluate", "ddpm-mnist", "--alike"], "--alike is for scenes"),
        (["--out", "x", "--max-steps", 1, "--stage", "classifier", "--keep", 2], "--keep is for"),
        (["--out", "x", "--max-steps", 1, "--stage", "vae"], "no stage vae"),
        (["--out", "x", "--max-steps", 1, "--preset", "nope"], "no preset 'nope'"),
        (["--out", "x", "--max-steps", 1, "--data", "nowhere"], "no such folder"),
        (["--out", "x", "--max-steps", 1, "--device", "quantum"], "not available"),
    ],
)
def test_bad_usage_of_train(words, error, capsys):
    assert run("train", "mnist", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and error in lines[0]


def test_bad_usage_of_sample(tmp_path, model, capsys):
    assert run("sample", "mnist", "-m", model, "--class", "eleven") == 2
    assert "class 'eleven' is unknown - there is 0, 1" in capsys.readouterr().err
    assert run("sample", "mnist", "-p", "a star") == 2
    assert "--prompt is for scenes" in capsys.readouterr().err
    assert run("sample", "scenes", "--class", "7") == 2
    assert "--class is for mnist, fashion-mnist" in capsys.readouterr().err
    assert run("sample", "mnist", "--steps", "1001") == run("sample", "mnist", "-t", "0") == 2
    assert run("sample", "mnist", "--device", "quantum") == 2
    capsys.readouterr()
    (tmp_path / "there.png").write_bytes(b"something")
    for flag, path in (
        ("-o", "there.png"),
        ("--film", "there.png"),
        ("-o", "/dev/null"),
        ("-o", "."),
    ):
        assert run("sample", "mnist", "-m", model, flag, tmp_path / path) == 2
    assert (tmp_path / "there.png").read_bytes() == b"something"
    assert run("sample", "mnist", "-m", tmp_path) == 2
    assert "no model of pixels there" in capsys.readouterr().err


def test_a_card_gives_commands_that_sample_its_own_model(tmp_path, model, capsys, monkeypatch):
    """Run as the card has them; the pictures are those of this model and not of a shipped one."""
    lines = (model / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("    sd-scratch sample"))
    monkeypatch.chdir(model)
    assert main(shlex.split(command)[1:]) == 0
    made = Image.open(model / "samples.png").tobytes()
    sheet = tmp_path / "x.png"
    assert run("sample", "mnist", "-m", model, "--class", 0, "-b", 16, "-o", sheet) == 0
    assert Image.open(sheet).tobytes() == made
    assert Image.open(sheet).width == 2 * (4 * 10 + 2)  # 8 pixels, where shipped models have 28
    start = lines.index("    import sd_scratch as sd")
    values: dict[str, object] = {}
    exec("\n".join(line.strip() for line in lines[start : start + 2]), values)
    assert values["pictures"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("name", ["a cat's ear", "-x", "$HOME", "7", "--help", "ü"])
def test_a_card_spells_any_class_for_the_shell(tmp_path, name):
    names = (name, *(f"c{i}" for i in range(9)))
    preset = replace(BETTER, model=replace(BETTER.model, class_names=names))
    data = digit_data()
    data = replace(data, train=replace(data.train, class_names=names))
    train_ddpm(preset, data, tmp_path, Budget(steps=1))
    lines = (tmp_path / "model" / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("    sd-scratch sample"))
    words = shlex.split(command)[2:]
    parser = Parser()
    sample.add_arguments(parser)
    assert vars(parser.parse_args(words))["class"] == [name]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["cat", "dog"], {"cat": 0, "dog": 1, "0": 0, "1": 1, "none": None}),
        (["1", "2", "10"], {"1": 0, "2": 1, "10": 2, "none": None}),
        (["7", "none"], {"7": 0, "none": 1}),
    ],
)
def test_a_class_is_named_before_it_is_counted(names, found):
    for name, number in found.items():
        assert sample.class_number(names, name) == number
    for name in {"0", "1", "2", "-1", "3", "99", "cow"} - set(found):
        with pytest.raises(UsageError, match=f"unknown - there is {', '.join(names)}"):
            sample.class_number(names, name)


def test_shipped_models_are_found_by_name(tmp_path, model, monkeypatch, capsys):
    shipped = tmp_path / "weights"
    shipped.mkdir()
    model.rename(shipped / "ddpm-mnist")
    monkeypatch.setattr(pixel_model, "weights_folder", lambda: shipped)
    assert run("weights", "list") == 0
    assert "ddpm-mnist" in capsys.readouterr().out
    assert run("sample", "mnist", "-b", 2, "-o", tmp_path / "x.png") == 0


def test_the_data_command_reads_what_it_fetched(tmp_path, monkeypatch, capsys):
    from sd_scratch.training.pixels import download

    monkeypatch.setattr(download, "download_data", lambda source, folder, progress: None)
    assert run("data", "mnist") == 0
    assert last_line(capsys) == str(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    assert run("data", "mnist") == 1
    assert "cut short" in capsys.readouterr().err


def test_a_row_is_all_that_a_data_set_takes(tmp_path, monkeypatch, capsys):
    """Trained, sampled, judged and scored by the name that it was given from outside."""
    row = DataRow("Patterns.", lambda folder: digit_data(), {"better": BETTER}, JUDGE)
    monkeypatch.setitem(DATA_SETS, "patterns", row)
    out = tmp_path / "run"
    arguments = ["--data", tmp_path, "--batch", 8]
    assert run("train", "patterns", "--out", out, "--max-steps", 2, *arguments) == 0
    steps = ["--stage", "classifier", "--max-steps", 2]
    assert run("train", "patterns", "--out", out, *steps, *arguments) == 0
    model = ["--evaluate", out / "model", "--classifier", out / "classifier", "--count", 10]
    assert run("train", "patterns", *model, "--steps", 2, "--data", tmp_path) == 0
    assert "class accuracy, 9" in capsys.readouterr().out
    assert run("sample", "patterns", "-m", out / "model", "-b", 1, "-o", tmp_path / "x.png") == 0
    assert "Patterns." in (out / "model" / "README.md").read_text()
    assert run("data", "patterns") == 2
