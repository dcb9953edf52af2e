"""What named tensors cost: off, against the same networks without taps; and while recording."""

import ast
import inspect
import random
import resource
import sys
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from sd_scratch.cli.bench.networks import inputs, seconds
from sd_scratch.cli.bench.rows import Row, row
from sd_scratch.cli.bench.subjects import Theirs, random_components
from sd_scratch.config import SCENES
from sd_scratch.networks import attention, blocks, layers, unet
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Recorder
from sd_scratch.tensors.reductions import heads

CROSS = "unet.*.attn2.probs"
QUICK = 50  # calls of a small network for each call of a large one


@torch.no_grad()
def tensor_rows(ours: StableDiffusion, theirs: Theirs | None, size: int, repeats: int) -> list[Row]:
    return [off_row(repeats), *recording_rows(ours, theirs, size, repeats)]


@torch.no_grad()
def off_row(repeats: int) -> Row:
    """A guided step of the `scenes` U-Net, with taps but no listeners, and without taps."""
    model = StableDiffusion(random_components(SCENES, torch.device("cpu"), torch.float32))
    generator = torch.Generator().manual_seed(0)
    cells, text = SCENES.sample_size // SCENES.vae.downscale, SCENES.text
    x_t = torch.randn(2, SCENES.unet.in_channels, cells, cells, generator=generator)
    context = torch.randn(2, text.max_position_embeddings, text.hidden_size, generator=generator)
    t = torch.full((2,), 500.0)
    bare = untapped_unet(model)
    calls = [lambda: model.unet(x_t, t, context), lambda: bare(x_t, t, context)]
    assert torch.equal(calls[0](), calls[1]())
    tapped, untapped, ratios = [], [], []
    order = random.Random(0)
    for _ in range(repeats * QUICK):
        first = order.randrange(2)
        times = {i: seconds(calls[i]) for i in (first, 1 - first)}
        tapped.append(times[0])
        untapped.append(times[1])
        ratios.append(times[0] / times[1])
    low, _, high = quantiles(ratios, n=4)
    note = f"second column: without taps; ratios of neighbours {median(ratios):.4f} ({low:.3f} to {high:.3f})"
    return row("scenes U-Net, taps off", "s", tapped, untapped, note)


@torch.no_grad()
def recording_rows(
    ours: StableDiffusion, theirs: Theirs | None, size: int, repeats: int
) -> list[Row]:
    """A guided step while cross-attention of all layers is recorded (the branch cond, mean of the
    heads, fp16), and plain, in turn; beside it diffusers with the attention that hooks for heat maps
    put in, which keeps its probabilities."""
    x_t, t, context, _ = inputs(ours, size)

    def plain() -> Tensor:
        result: Tensor = ours.unet(x_t, t, context)
        return result

    def recorded() -> Tensor:
        with (
            Recorder(ours.taps, CROSS, branch="cond", reduce=heads(), dtype=torch.float16) as trace,
            ours.taps.calling(0, branches=("uncond", "cond")),
        ):
            result = plain()
        sizes.append(trace.bytes)
        return result

    sizes: list[int] = []
    ours.taps.tensors()
    expected = plain()
    before = peak()
    same = torch.equal(recorded(), expected)
    extra = peak() - before
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        times[0].append(seconds(recorded))
        times[1].append(seconds(plain))
    note = f"second column: plain; {'the same bits' if same else 'OTHER BITS'}"
    stored = sizes[-1] / 1e6
    rows = [
        row("U-Net, recording attention", "s", *times, note),
        Row("recorded, a step", "MB", stored, note=f"50 steps {50 * stored:.0f} MB"),
        Row("peak memory, added", "MB", extra / 1e6),
    ]
    if theirs is not None:
        rows.append(hooked_row(theirs, lambda: theirs.unet(x_t, t, context).sample, repeats))
    return rows


def hooked_row(theirs: Theirs, call: Callable[[], Tensor], repeats: int) -> Row:
    """diffusers' U-Net with explicit attention whose cross-attention is kept, as DAAM keeps it (DAAM
    itself wants a diffusers of 2023), and as it comes."""
    from diffusers.models.attention_processor import AttnProcessor

    kept: list[Tensor] = []

    class Keeping(AttnProcessor):
        def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
            compute = attn.get_attention_scores

            def scores(*inner: Any) -> Tensor:
                probs: Tensor = compute(*inner)
                kept.append(probs[len(probs) // 2 :].float().cpu())
                return probs

            attn.get_attention_scores = scores
            try:
                return super().__call__(attn, *args, **kwargs)
            finally:
                attn.get_attention_scores = compute

    usual = theirs.unet.attn_processors
    keeping = {name: Keeping() if ".attn2." in name else AttnProcessor() for name in usual}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for processors, found in ((keeping, times[0]), (usual, times[1])):
            theirs.unet.set_attn_processor(dict(processors))
            found.append(seconds(call))
            kept.clear()
    theirs.unet.set_attn_processor(usual)
    return row("diffusers, attention hooked", "s", *times, "second column: diffusers as it comes")


def untapped_unet(model: StableDiffusion) -> Any:
    """The U-Net compiled from its own source with every trace of the taps taken out, and the same
    weights."""
    space: dict[str, Any] = {"__name__": "untapped"}
    for module in (layers, attention, blocks, unet):
        tree = Untapped().visit(ast.parse(inspect.getsource(module)))
        code = compile(ast.fix_missing_locations(tree), f"untapped {module.__name__}", "exec")
        exec(code, space)
    with torch.device("meta"):
        bare = space["UNet"](model.config.unet)
    bare.load_state_dict(model.unet.state_dict(), assign=True)
    space["prefer_convolutions"](bare, model.unet.time_embedding.linear_1.by_convolution)
    return bare.eval()


class Untapped(ast.NodeTransformer):
    """``self.tap(leaf, x)`` becomes ``x``; what is only there for listeners goes."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[1] if ast.unparse(node.func) == "self.tap" else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        self.generic_visit(node)
        return None if ast.unparse(node.value) == "self.probe" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        if "probe is not None" in ast.unparse(node.test):
            return None
        self.generic_visit(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if (node.module or "").startswith("sd_scratch.networks.") else node


def peak() -> int:
    """The most memory that this process ever held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
