"""A short form of scripts/stress: many runs in one process do not meet, and hold nothing back."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "scripts" / "stress.py"
SPEC = importlib.util.spec_from_file_location("stress", FILE)
assert SPEC is not None and SPEC.loader is not None
stress = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stress)


def test_four_threads_on_two_models_of_the_same_networks() -> None:
    count = stress.threads(24)
    assert count.runs >= 24
    assert count.wrong == []


def test_pictures_are_let_go(capsys) -> None:
    growth = stress.pictures(40, every=40, latents=True)
    assert growth < 100  # megabytes for 1,000: where a run kept its tensors it would be more
    assert "40 pictures" in capsys.readouterr().out
