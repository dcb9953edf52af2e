"""The tables of what is obeyed, what has no effect and what is not supported."""

import inspect
from pathlib import Path

import pytest

from sd_scratch.checkpoints import keys
from sd_scratch.checkpoints.scheduler_classes import SCHEDULERS
from sd_scratch.json_file import Fields

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_tables_in_the_docs_are_those_of_the_code() -> None:
    """To renew them: put what keys.page() returns at the end of docs/checkpoints.md."""
    assert (DOCS / "checkpoints.md").read_text(encoding="utf-8").endswith("\n" + keys.page())


@pytest.mark.parametrize("table", keys.TABLES, ids=lambda table: table.title)
def test_no_key_is_in_two_tables(table: keys.Keys) -> None:
    named = [*table.obeyed, *table.refused, *table.warned]
    named += [name for pattern in table.idle for name in pattern.split("|")]
    assert len(named) == len(set(named))


def test_a_key_in_no_table_is_warned_of() -> None:
    fields = Fields({"act_fn": "silu", "dropout": 0.1, "new": [1]}, "x.json")
    keys.UNET.check(fields)
    assert fields.warnings == ["x.json - `new`: [1] is not known here and not followed"]


def test_every_key_that_diffusers_writes_for_stable_diffusion_is_known() -> None:
    diffusers = pytest.importorskip("diffusers")
    classes = {"UNet2DConditionModel": keys.UNET, "AutoencoderKL": keys.VAE}
    classes |= dict.fromkeys(SCHEDULERS, keys.SCHEDULER)
    for name, table in classes.items():
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        unknown = [
            key
            for key in parameters
            if key not in ("self", "args", "kwargs") and not table.knows(key)
        ]
        assert not unknown, name
    transformers = pytest.importorskip("transformers")
    unknown = [key for key in transformers.CLIPTextConfig().to_dict() if not keys.TEXT.knows(key)]
    assert not unknown
