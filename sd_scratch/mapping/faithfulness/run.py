"""The whole examination, a few scenes at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sd_scratch.mapping.faithfulness.batches import Batches
from sd_scratch.mapping.faithfulness.cases import Case
from sd_scratch.mapping.faithfulness.checks import check_pictures, cut, randomise, resample
from sd_scratch.mapping.faithfulness.maps import Measured, measure, measured_pictures
from sd_scratch.mapping.faithfulness.scores import Row, score
from sd_scratch.mapping.maps import require_full_precision

PART = 8  # scenes that share batches


@dataclass(frozen=True, eq=False)
class Part:
    """What came of some scenes.

    Attributes:
        measured: pictures and maps, as raw tensors.
        rows: every metric of every word and map; see `scores.COLUMNS`.
        checks: what the checks found of the nouns; see `checks`.
    """

    measured: list[Measured] = field(repr=False)
    rows: list[Row] = field(repr=False)
    checks: list[Row] = field(repr=False)


def examine(batches: Batches, cases: Sequence[Case], checks: int = 0) -> Iterator[Part]:
    """Measure all maps of all cases, `PART` at a time, and check the maps of the first `checks` scenes.

    Raises ScratchError (bad usage) in half precision, which such small differences do not survive.
    """
    require_full_precision(batches.model.dtype)
    for some in parts(cases):
        measured = measure(batches, some)
        rows = [row for one in measured for row in score(one)]
        found: list[Row] = []
        chosen = [one for one in measured if one.case.index < checks]
        if chosen:
            found += [row for one in chosen for row in cut(batches, one)]
            found += randomise(batches, chosen)
            found += resample(batches, chosen)
        yield Part(measured, rows, found)


def parts(cases: Sequence[Case]) -> list[Sequence[Case]]:
    return [cases[i : i + PART] for i in range(0, len(cases), PART)]


def count_pictures(cases: Sequence[Case], checks: int, sampler: str) -> int:
    """How many pictures `examine` makes."""
    checked = sum(case.index < checks for case in cases)
    return len(cases) * measured_pictures() + checked * check_pictures(sampler)
