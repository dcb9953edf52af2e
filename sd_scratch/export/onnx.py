"""`export_onnx`: a model as ONNX graphs, for runtimes without PyTorch; a browser's, above all.

    text_encoder.onnx    token ids -> context
    unet.onnx            sample, timestep, context, factors -> prediction and named tensors
    decoder.onnx         latent -> picture
    tokenizer/           vocab.json and merges.txt
    manifest.json        names, axes and shapes of all inputs and outputs, schedule, defaults, digests

The batch is fixed: two for the text and the U-Net, [uncond, cond], and one for the decoder, since a
fused attention may freeze shapes anyway. So is the size.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.export.graphs import DecoderGraph, TextGraph, UNetGraph
from sd_scratch.files import check_new_folder, new_folder, write_file
from sd_scratch.pipeline.checks import check_inputs, check_side
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import TensorInfo
from sd_scratch.tensors.listing import meaning
from sd_scratch.version import __version__

MANIFEST = "manifest.json"
FILES = ("text_encoder.onnx", "unet.onnx", "decoder.onnx", MANIFEST, "tokenizer")
BRANCHES = ("uncond", "cond")
LIMIT = 2**31 - 2**20  # bytes of one file, which is a protocol buffer
SMALL = 256  # numbers; what has fewer stays in fp32
EXTRA = "pip install onnx onnxscript"


def export_onnx(
    model: StableDiffusion,
    folder: Path,
    tensors: Sequence[str] = (),
    *,
    width: int | None = None,
    height: int | None = None,
    half: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model as ONNX graphs into a new folder; returns its manifest.

    Args:
        tensors: globs of the U-Net's tensors that its graph returns beside the prediction.
        width, height: of the pictures, in pixels; the model's own by default.
        half: store the weights as fp16; the graphs compute in fp32 either way.

    Raises:
        UsageError: a package that is missing, a model or a size that cannot be exported, a glob that
            matches none of the U-Net's tensors.
        ScratchError: a graph beyond 2 GiB.
    """
    require_packages()
    check_inputs(model.config, model.components.source)
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise UsageError(
            f"the model is {model.dtype_name} on {model.device} - load it as float32 on the cpu"
        )
    cell = model.config.vae.downscale
    sides = (height or model.config.sample_size, width or model.config.sample_size)
    h, w = (check_side(n, s, cell) // cell for n, s in zip(("height", "width"), sides, strict=True))
    infos = chosen_tensors(model, tensors, (w * cell, h * cell))
    check_new_folder(folder, FILES if overwrite else ())
    tokens, channels = model.config.text.max_position_embeddings, model.config.text.hidden_size
    unet = UNetGraph(model.unet, infos)
    shape = (model.config.vae.latent_channels, h, w)
    two = len(BRANCHES)
    graphs: dict[str, tuple[nn.Module, dict[str, Tensor], list[str]]] = {
        "text_encoder": (
            TextGraph(model.text),
            {"token_ids": torch.zeros(two, tokens, dtype=torch.long)},
            ["context"],
        ),
        "unet": (
            unet,
            {
                "x_t": torch.zeros(two, *shape),
                "t": torch.zeros(two),
                "context": torch.zeros(two, tokens, channels),
                "factors": torch.ones(two, len(unet.heads), max(unet.heads.values()), tokens),
            },
            ["pred", *unet.names],
        ),
        "decoder": (DecoderGraph(model.vae), {"latent": torch.zeros(1, *shape)}, ["image"]),
    }
    manifest = _facts(model, unet, shape, infos)
    with new_folder(folder, FILES if overwrite else ()) as part:
        for name, (graph, inputs, outputs) in graphs.items():
            log.info(f"{name}: {len(outputs)} outputs")
            data, described = _graph(graph, inputs, outputs, half)
            write_file(part / f"{name}.onnx", data)
            manifest["graphs"][name] = {
                "file": f"{name}.onnx",
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                **described,
            }
        model.tokenizer.save(part / "tokenizer")
        write_file(part / MANIFEST, json.dumps(manifest).encode() + b"\n")
    return manifest


def require_packages() -> None:
    """Raise UsageError unless what PyTorch's exporter needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed - {EXTRA}") from None


def chosen_tensors(
    model: StableDiffusion, globs: Sequence[str], size: tuple[int, int]
) -> list[TensorInfo]:
    """The tensors of the U-Net that the globs match. Raises UsageError for another network's."""
    if not globs:
        return []
    infos = model.tensors(*globs, width=size[0], height=size[1])
    strange = [info.name for info in infos if info.root != "unet"]
    if strange:
        raise UsageError(
            f"{strange[0]} is not one of the U-Net's - only its tensors are exported: unet.*"
        )
    return [info for info in infos if info.name != "unet.pred"]


def _facts(
    model: StableDiffusion, unet: UNetGraph, shape: Sequence[int], infos: Sequence[TensorInfo]
) -> dict[str, Any]:
    """What the graphs themselves do not say."""
    config, schedule = model.config, model.schedule
    return {
        "format": "sd_scratch onnx 1",
        "version": __version__,
        "model": config.name,
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in model.networks.items()
        },
        "width": shape[2] * config.vae.downscale,
        "height": shape[1] * config.vae.downscale,
        "downscale": config.vae.downscale,
        "tokens": config.text.max_position_embeddings,
        "text_cleaning": model.tokenizer.text_cleaning,
        "prediction_type": config.schedule.prediction_type,
        "alpha_bars": [schedule.alpha_bar_at(t) for t in range(len(schedule))],
        "set_alpha_to_one": config.schedule.set_alpha_to_one,
        "steps_offset": config.schedule.steps_offset,
        "spacing": config.spacing or config.schedule.timestep_spacing,
        "steps": config.steps,
        "guidance": config.guidance,
        "branches": BRANCHES,
        "factors": {
            "layers": [f"unet.{layer}" for layer in unet.heads],
            "heads": list(unet.heads.values()),
        },
        "tensors": [
            {
                "name": i.name,
                "leaf": i.leaf,
                "meaning": meaning(i),
                "axes": i.axes,
                "shape": [len(BRANCHES), *i.shape[1:]],
                "hw": i.hw,
            }
            for i in infos
        ],
        "graphs": {},
    }


def _graph(
    graph: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], half: bool
) -> tuple[bytes, dict[str, Any]]:
    """A graph's bytes, and the names, types and shapes of what goes in and comes out."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        made = graph(*inputs.values())
    assert program is not None  # it is with dynamo
    proto = program.model_proto
    if half:
        halve(proto)
    if proto.ByteSize() > LIMIT:
        raise ScratchError(
            f"a graph of {proto.ByteSize() / 2**30:.1f} GiB does not fit into one ONNX file - store its"
            " weights in half precision"
        )
    results = [made] if isinstance(made, Tensor) else list(made)
    return proto.SerializeToString(), {
        "inputs": [_row(name, x) for name, x in inputs.items()],
        "outputs": [_row(name, x) for name, x in zip(outputs, results, strict=True)],
    }


def _row(name: str, x: Tensor) -> dict[str, Any]:
    return {"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}


def halve(proto: Any) -> None:
    """Store a graph's larger fp32 weights as fp16, each with a cast before its readers."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in proto.graph.initializer:
        numbers = numpy_helper.to_array(weight) if weight.data_type == TensorProto.FLOAT else None
        if numbers is None or numbers.size < SMALL or np.abs(numbers).max() > np.finfo("f2").max:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(numbers.astype("f2"), f"{name}.half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *nodes])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that no graph of ours needs."""
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(level)
