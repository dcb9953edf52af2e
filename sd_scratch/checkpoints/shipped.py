"""The trained models that come with the package: folders in `weights/`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def weights_folder() -> Path:
    """Where the shipped models lie: inside an installed package, or beside it in a checkout."""
    inside = PACKAGE / "weights"
    return inside if inside.is_dir() else PACKAGE.parent / "weights"


def list_shipped() -> list[str]:
    """The names of the shipped models, sorted."""
    return sorted(path.parent.name for path in weights_folder().glob("*/model_index.json"))


def shipped_model(name: str) -> Path | None:
    """The folder of a shipped model, or None when there is none of that name."""
    return weights_folder() / name if name in list_shipped() else None
