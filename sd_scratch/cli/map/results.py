"""Where an experiment's results go: a folder of figures, tables, raw tensors and the settings."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import sd_scratch
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import check_target, write_file
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.state import State
from sd_scratch.pipeline.recipe import Recipe

SETTINGS = "settings.json"
DEFAULT = Path("out")


class Results:
    """Writes files into a folder, each whole or not at all, and prints their paths.

    Without a folder the first free one of ``out/EXPERIMENT-0001``, ... is made when there is something
    to put there.

    Args:
        resume: go on with what a run that stopped left in the folder.
        grows: whether a run that is complete can be resumed too, to become larger.
        shared: other processes write there too.
        facts: what the settings have to say beside recipe and report.

    Raises:
        ScratchError: (mostly bad usage) results are there already and `overwrite` is false, there is
            nothing to go on with, or nothing can be written.
    """

    def __init__(
        self,
        folder: Path | None,
        experiment: str,
        *,
        overwrite: bool = False,
        resume: bool = False,
        grows: bool = False,
        shared: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.experiment, self.files, self._folder = experiment, list[str](), folder
        self.facts = dict(facts or {})
        self.goes_on = resume or shared
        if self.goes_on and folder is None:
            how = "--resume" if resume else "a run of several processes"
            raise UsageError(f"{how} needs a folder of its own - name it with -o")
        complete = folder is not None and (folder / SETTINGS).exists()
        if complete and resume and not grows:
            raise UsageError(f"{folder} is complete - there is nothing to go on with")
        full = folder is not None and folder.is_dir() and any(folder.iterdir())
        if full and not (overwrite or self.goes_on):
            what = "results already" if complete else "other files"
            raise UsageError(
                f"{folder} holds {what} - nothing was made - give --overwrite, or another folder"
            )
        check_target((folder or DEFAULT) / SETTINGS)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = _free_folder(self.experiment)
        return self._folder

    def state(self, mark: Mapping[str, Any]) -> State:
        """Where parts are kept until the run is complete; empty unless it goes on.

        Raises UsageError where it would go on with other settings."""
        state = State(lambda: self.folder, {"experiment": self.experiment, **mark})
        if self.goes_on:
            state.check()
        elif self._folder is not None:
            state.clear()
        return state

    def save(
        self, report: Report, recipe: Recipe, *, state: State | None = None, keep: bool = False
    ) -> None:
        """All of a report, and last of all what was done, as JSON, which also says that the results are
        complete. The parts of `state` are removed then, or listed if a larger run may `keep` them."""
        for name, data in report.files():
            self.write(name, data)
        if state is not None and keep:
            self.files += [state.path(name).name for name in state.names()]
        facts = {
            "version": sd_scratch.__version__,
            "experiment": self.experiment,
            **recipe.known,
            **self.facts,
            **report.facts,
            "files": list(dict.fromkeys(self.files)),
        }
        self.write(SETTINGS, (json.dumps(facts, ensure_ascii=False, indent=2) + "\n").encode())
        if report.text:
            print(report.text)
        if state is not None and not keep:
            state.clear()

    def write(self, name: str, data: bytes) -> None:
        write_file(self.folder / name, data, overwrite=True)
        self.files.append(name)
        print(self.folder / name, flush=True)


def _free_folder(experiment: str) -> Path:
    """Make the first free folder; of several processes each gets its own."""
    for number in count(1):
        folder = DEFAULT / f"{experiment}-{number:04}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.parent.is_dir():
                raise ScratchError(f"{folder.parent} is a file - name a folder with -o") from None
        except OSError as error:
            raise ScratchError(
                f"cannot make {folder} - {error.strerror} - name one with -o"
            ) from None
        else:
            return folder
    raise AssertionError
