"""One process that `processes` measures: ``python -m sd_scratch.cli.bench.child SIDE WHAT FOLDER ...``.

It prints when the first U-Net call began (seconds since the epoch), or the highest memory use of a
whole run in bytes.
"""

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = "a photograph of an astronaut riding a horse"


class Reached(BaseException):
    """Raised through everything between the U-Net and `main`: there is nothing more to measure."""


def main(
    side: str, what: str, folder: str, size: str, steps: str, threads: str, dtype: str
) -> None:
    from torch.nn.modules.module import register_module_forward_pre_hook

    def first_call(module: Any, inputs: Any) -> None:
        if type(module).__name__ in ("UNet", "UNet2DConditionModel"):
            report(first_call=time.time())
            raise Reached

    if what == "startup":
        register_module_forward_pre_hook(first_call)
    run = ours if side == "ours" else theirs
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(Reached):
        run(folder, Path(place) / "picture.png", int(size), int(steps), int(threads), dtype)
        report(peak=peak_memory())


def ours(folder: str, file: Path, size: int, steps: int, threads: int, dtype: str) -> None:
    from sd_scratch.cli import main as command_line

    options = [f"--width={size}", f"--height={size}", f"--steps={steps}", f"--dtype={dtype}"]
    options += [f"--threads={threads}"] if threads else []
    code = command_line(
        ["generate", PROMPT, "-q", "-m", folder, "-o", str(file), "-s", "0", *options]
    )
    if code:
        raise SystemExit(code)


def theirs(folder: str, file: Path, size: int, steps: int, threads: int, dtype: str) -> None:
    import importlib

    import torch

    diffusers: Any = importlib.import_module("diffusers")
    if threads:
        torch.set_num_threads(threads)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=getattr(torch, dtype), safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    result = pipeline(
        PROMPT, width=size, height=size, num_inference_steps=steps, generator=generator
    )
    result.images[0].save(file)


def peak_memory() -> int:
    """The highest resident memory that this program had, in bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the process was before it became this program, too
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def report(**values: float) -> None:
    print("\n" + json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
