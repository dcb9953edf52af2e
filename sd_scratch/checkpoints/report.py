"""A report on a model file, without loading it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sd_scratch.checkpoints import build
from sd_scratch.checkpoints.family import family, family_of
from sd_scratch.checkpoints.folder import read_folder
from sd_scratch.checkpoints.hashes import cached_sha256
from sd_scratch.checkpoints.layout import Layout
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.safetensors_file import Header, StoredTensor
from sd_scratch.checkpoints.single_file import read_single_file, usual_tensors
from sd_scratch.checkpoints.source import locate
from sd_scratch.errors import ScratchError

SHOWN = 5  # keys of a longer list


@dataclass(frozen=True)
class PartReport:
    """One network: how many tensors and numbers it has, and how they are stored."""

    name: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The result of `inspect`. `problem` is why the file cannot be loaded, or ""; `not_finite` names the
    tensors with NaN or infinities, None if not checked."""

    source: str
    path: str
    family: str
    layout: str
    size: int  # bytes of the weight files
    hash: str  # first ten hex digits, as in pictures' metadata
    parts: tuple[PartReport, ...]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    problem: str = ""
    not_finite: tuple[str, ...] | None = None

    def lines(self) -> list[str]:
        """For people, a fact a line."""
        lines = [
            f"path          {self.path}",
            f"family        {self.family or 'unknown'}",
            f"layout        {self.layout}, {self.size / 1e6:,.1f} MB",
            f"hash          {self.hash}",
        ]
        for part in self.parts:
            lines.append(
                f"{part.name:<14}{part.tensors:,} tensors, {part.parameters:,} parameters,"
                f" {'+'.join(part.dtypes)}"
            )
        for title, keys in (("ignored", self.ignored), ("unknown", self.unknown)):
            if keys:
                lines.append(f"{title:<14}{_some(keys)}")
        if self.not_finite is not None:
            lines.append(
                f"{'not finite':<14}{_some(self.not_finite) if self.not_finite else 'none'}"
            )
        lines += [f"note          {note}" for note in self.notes]
        lines += [f"warning       {warning}" for warning in self.warnings]
        lines += [f"problem       {self.problem}"] if self.problem else []
        return lines


def inspect(
    source: str | Path, *, revision: str | None = None, offline: bool = False, check: bool = False
) -> Report:
    """Say what a model is; with `check`, read every tensor and look for NaN and infinities.

    A whole file that cannot be loaded is reported with its `problem`. Raises ScratchError for what cannot be
    read at all: missing, damaged, no safetensors file, a folder of another family.
    """
    place = locate(source, revision=revision, offline=offline)
    if place.path.is_dir():
        layout = read_folder(place.path, place.name)
        return _known(str(source), layout, family_of(layout.config), check)
    header = read_weights(place.path)
    kind = family(usual_tensors(header))
    try:
        layout = read_single_file(place.path, place.name)
    except ScratchError as error:
        return _foreign(str(source), header, kind, str(error), check)
    return _known(str(source), layout, kind, check)


def _known(source: str, layout: Layout, kind: str, check: bool) -> Report:
    unknown, problem = list(layout.unknown), ""
    for name, stored in layout.parts.items():
        network = build.empty(stored.part.network, stored.config)
        try:
            keys = build.check(network, stored.part.title, stored.tensors, layout.path)
            unknown += [f"{name}.{key}" for key in keys]
        except ScratchError as error:
            problem = problem or str(error)
    tensors = {
        f"{name}.{key}": tensor
        for name, stored in layout.parts.items()
        for key, tensor in stored.tensors.items()
    }
    return Report(
        source=source,
        path=str(layout.path),
        family=kind,
        layout=layout.kind,
        size=sum(file.stat().st_size for file in {t.path for t in tensors.values()}),
        hash=cached_sha256(layout.hashed_files)[:10],
        parts=tuple(_part(s.part.title, s.tensors.values()) for s in layout.parts.values()),
        ignored=layout.ignored,
        unknown=tuple(unknown),
        notes=layout.notes,
        warnings=layout.warnings,
        problem=problem,
        not_finite=not_finite(tensors) if check else None,
    )


def _foreign(source: str, header: Header, kind: str, problem: str, check: bool) -> Report:
    """A whole file that is no model of this package."""
    return Report(
        source=source,
        path=str(header.path),
        family=kind,
        layout="single file",
        size=header.path.stat().st_size,
        hash=cached_sha256([header.path])[:10],
        parts=(_part("all", header.tensors.values()),),
        ignored=(),
        unknown=(),
        notes=(header.note,) if header.note else (),
        problem=problem,
        not_finite=not_finite(header.tensors) if check else None,
    )


def not_finite(tensors: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """The names of the tensors that hold NaN or infinities; each is read once."""
    return tuple(
        key
        for key, stored in tensors.items()
        if stored.is_floating and not torch.isfinite(stored.read().float()).all()
    )


def _part(name: str, tensors: Iterable[StoredTensor]) -> PartReport:
    tensors = list(tensors)
    dtypes = tuple(sorted({tensor.dtype.lower() for tensor in tensors}))
    return PartReport(name, len(tensors), sum(tensor.numel for tensor in tensors), dtypes)


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = ", ..." if len(keys) > SHOWN else ""
    return f"{len(keys)}: {', '.join(keys[:SHOWN])}{more}"
