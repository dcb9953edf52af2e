"""What the page's tests share."""

from collections.abc import Iterator

import pytest

from sd_scratch.page.engine import Engine
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(tiny_model())
    yield engine
    engine.stop()
