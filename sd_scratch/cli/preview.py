"""``--preview``: what a run will show, every few steps, in a file or in the terminal."""

import argparse
import os
import sys
from pathlib import Path

from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import check_target, write_file
from sd_scratch.pictures.png import encode_png, read_texts
from sd_scratch.pictures.terminal import PROTOCOLS, find_protocol
from sd_scratch.pipeline.preview import preview
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

KEYWORD, MARK = "Comment", "a preview by sd_scratch"


class Previews:
    """Where the previews of a run go. Made before anything is computed.

    Raises UsageError where there is nowhere to show them, and for a file that would be lost.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.file: Path | None = args.preview_file
        self.every: int = args.preview or (1 if self.file or args.preview_terminal else 0)
        self.protocol = None
        self._taken, self._cells = 0, 0  # steps of the picture at hand, and the cells of its latent
        if not self.every:
            return
        if args.preview_terminal or self.file is None:
            self.protocol = _protocol(args.preview_terminal or "auto")
        if self.file is not None:
            if args.output is not None and self.file.resolve() == Path(args.output).resolve():
                raise UsageError(
                    f"--preview-file {self.file} is where the picture goes (-o) - give another name"
                )
            self._check_file(self.file, args.overwrite)

    def expect(self, steps: int) -> None:
        """Say where pictures of so many steps have no preview."""
        if self.every > steps:
            log.warning(f"--preview {self.every}: of {steps} steps nothing is shown")

    def on_step(self, step: Step, model: StableDiffusion) -> None:
        """Show the step's guess at the picture, if it is its turn; a second pass, larger, counts on."""
        cells = step.x_t[0].numel()
        if step.index == 0 and cells <= self._cells:
            self._taken = 0
        self._taken, self._cells = self._taken + 1, cells
        if not self.every or self._taken % self.every:
            return

        picture = preview(step.x0, model.config.name, model.config.vae.downscale)
        if self.file is not None:
            write_file(self.file, encode_png(picture, {KEYWORD: MARK}), overwrite=True)
        if self.protocol is not None:
            print(PROTOCOLS[self.protocol](picture), file=sys.stderr, flush=True)

    @staticmethod
    def _check_file(path: Path, overwrite: bool) -> None:
        if path.suffix.lower() != ".png":
            raise UsageError(
                f"--preview-file {path} - previews are PNG files: end the name with .png"
            )
        check_target(path)
        if overwrite or not path.exists():
            return
        try:
            ours = read_texts(path, {KEYWORD})[0].get(KEYWORD) == MARK
        except ScratchError:
            ours = False
        if not ours:
            raise UsageError(f"--preview-file {path} exists and is no preview - give another name")


def _protocol(asked: str) -> str:
    found = find_protocol(os.environ) if asked == "auto" else asked
    if not sys.stderr.isatty():
        raise UsageError("--preview in a terminal, and there is none - name a file: --preview-file")
    if found is None:
        raise UsageError(
            "--preview: this terminal does not say that it can show pictures - name its protocol with"
            " --preview-terminal, or a file with --preview-file"
        )
    return found
