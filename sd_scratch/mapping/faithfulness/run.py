"""The whole examination, a few scenes at a time, each kept as soon as it is done."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sd_scratch.mapping.faithfulness.cases import Case
from sd_scratch.mapping.faithfulness.checks import check_pictures, cut, randomise, resample
from sd_scratch.mapping.faithfulness.maps import Measured, measure, measured_pictures
from sd_scratch.mapping.faithfulness.scores import Row, score
from sd_scratch.mapping.maps import require_full_precision
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.state import State

PART = 8  # scenes that are measured together
EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Part:
    """What came of some scenes.

    Attributes:
        scenes: their numbers.
        rows: every metric of every word and map; see `scores.COLUMNS`.
        checks: what the checks found of the nouns; see `checks`.
        examples: of the first few that show what was asked for, by names such as ``0.picture``,
            ``0.mask`` (of the noun's object) and ``0.circle-1.attention``.
        measured: pictures and maps, as raw tensors; none of a part that was read again.
    """

    scenes: tuple[int, ...]
    rows: list[Row] = field(repr=False)
    checks: list[Row] = field(repr=False)
    examples: dict[str, Tensor] = field(repr=False)
    measured: list[Measured] = field(default_factory=list, repr=False)


def examine(
    rendering: Rendering, cases: Sequence[Case], checks: int = 0, state: State | None = None
) -> Iterator[Part]:
    """Measure all maps of all cases, `PART` at a time, and check the maps of the first `checks` scenes.

    With a `state`, what is there already comes first and is not made again. Raises ScratchError (bad
    usage) in half precision, which such small differences do not survive.
    """
    require_full_precision(rendering.model.dtype)
    known = read_parts(state)
    yield from known
    missing = missing_cases(cases, known)
    for i in range(0, len(missing), PART):
        part = _examine(rendering, missing[i : i + PART], checks)
        if state is not None:
            facts = {"scenes": part.scenes, "rows": part.rows, "checks": part.checks}
            text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
            state.write(f"scenes-{part.scenes[0]:06}", {**part.examples, "facts": text})
        yield part


def read_parts(state: State | None) -> list[Part]:
    """What an earlier run found. Raises ScratchError as `State.read`."""
    parts = []
    for name in [] if state is None else state.names("scenes-"):
        tensors = (state.read(name) if state else None) or {}
        facts = json.loads(tensors.pop("facts").numpy().tobytes())
        parts.append(Part(tuple(facts["scenes"]), facts["rows"], facts["checks"], tensors))
    return parts


def missing_cases(cases: Sequence[Case], known: Sequence[Part]) -> list[Case]:
    done = {scene for part in known for scene in part.scenes}
    return [case for case in cases if case.index not in done]


def own_cases(cases: Sequence[Case], share: tuple[int, int]) -> list[Case]:
    """One process' cases (`share`: which, and of how many), in the parts that one process alone would make."""
    rank, processes = share
    return [case for i, case in enumerate(cases) if i // PART % processes == rank]


def count_pictures(cases: Sequence[Case], checks: int, sampler: str) -> int:
    """How many pictures `examine` makes."""
    checked = sum(case.index < checks for case in cases)
    return len(cases) * measured_pictures() + checked * check_pictures(sampler)


def _examine(rendering: Rendering, cases: Sequence[Case], checks: int) -> Part:
    measured = measure(rendering, cases)
    rows = [row for one in measured for row in score(one)]
    found: list[Row] = []
    chosen = [one for one in measured if one.case.index < checks]
    if chosen:
        found += [row for one in chosen for row in cut(rendering, one)]
        found += randomise(rendering, chosen)
        found += resample(rendering, chosen)
    scenes = tuple(case.index for case in cases)
    return Part(scenes, rows, found, _examples(measured), measured)


def _examples(measured: Sequence[Measured]) -> dict[str, Tensor]:
    """Those that show what was asked for, with two objects first."""
    whole = [one for one in measured if one.masks.of(one.case.targets[0].slot) is not None]
    shown = sorted(whole, key=lambda one: -len(one.case.scene.objects))[:EXAMPLES] or measured[:1]
    raw = {}
    for one in shown:
        index = one.case.index
        raw[f"{index}.picture"] = one.picture
        mask = one.masks.of(one.case.targets[0].slot)
        if mask is not None:
            raw[f"{index}.mask"] = mask
        for target, maps in zip(one.case.targets, one.maps, strict=True):
            raw |= {f"{index}.{target.text}-{target.nth}.{name}": maps[name] for name in maps}
    return raw
