"""The other side of a comparison: diffusers' pipeline on the same files, watched by hooks."""

import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sd_scratch.checkpoints.save import save_configuration
from sd_scratch.checkpoints.scheduler_classes import SCHEDULERS
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.beside import Sketch, Sketches, choose_tensors
from sd_scratch.pipeline.branches import COND, UNCOND, Scales
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Address, TensorInfo
from sd_scratch.tensors.reference import Watcher


def sketch_diffusers(
    model: StableDiffusion,
    prompt: str,
    noise: ImageNoise,
    globs: Sequence[str] = (),
    *,
    path: Path,
    loras: Sequence[tuple[Path, LoraUse]],
    negative: str,
    steps: int,
    sampler: str,
    guidance: float,
) -> Sketches:
    """What diffusers' pipeline makes of the files at `path` and the same noise, under the names that `model`
    has for it.

    Raises ScratchError where it is not installed or cannot read the files, and UsageError for what it
    cannot be asked for.
    """
    pipeline = load_pipeline(path, model, loras)
    _set_sampler(pipeline, sampler)
    pipeline.set_progress_bar_config(disable=True)
    infos = choose_tensors(model, globs)
    watching = _Watching(pipeline, infos, Scales(guidance).branches)
    with watching:
        pipeline(
            prompt,
            negative_prompt=negative,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise.latent.clone(),
            width=noise.width,
            height=noise.height,
            output_type="pt",
        )
    return watching.found


def load_pipeline(
    path: Path, model: StableDiffusion, loras: Sequence[tuple[Path, LoraUse]] = ()
) -> Any:
    """diffusers' `StableDiffusionPipeline` of a folder or a single file, without a network."""
    if not all(importlib.util.find_spec(name) for name in ("diffusers", "transformers")):
        raise ScratchError("--with diffusers needs it: pip install diffusers transformers")
    # By name, so that the type check neither needs it nor looks into it.
    for library in ("diffusers", "transformers"):
        talk: Any = importlib.import_module(f"{library}.utils.logging")
        talk.set_verbosity_error()
        talk.disable_progress_bar()
    pipeline_class: Any = importlib.import_module("diffusers").StableDiffusionPipeline
    try:
        if path.is_dir():
            pipeline = pipeline_class.from_pretrained(
                path, safety_checker=None, local_files_only=True, torch_dtype=torch.float32
            )
        else:
            with TemporaryDirectory() as folder:
                save_configuration(model.base, Path(folder))
                pipeline = pipeline_class.from_single_file(
                    path, config=folder, safety_checker=None, torch_dtype=torch.float32
                )
        for i, (file, _) in enumerate(loras):
            pipeline.load_lora_weights(file, adapter_name=f"lora{i}")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ScratchError(f"{path} - diffusers cannot read it: {reason[0][:200]}") from None
    if loras:
        scales = [{"unet": use.scale, "text_encoder": use.text_scale} for _, use in loras]
        pipeline.set_adapters([f"lora{i}" for i in range(len(loras))], scales)
    return pipeline


def _set_sampler(pipeline: Any, sampler: str) -> None:
    """Let the pipeline sample as we do, its configuration kept."""
    classes = {kind.sampler: name for name, kind in SCHEDULERS.items()}
    here = type(pipeline.scheduler).__name__
    if here in SCHEDULERS and SCHEDULERS[here].sampler == sampler:
        return
    if sampler not in classes:
        known = ", ".join(classes)
        raise UsageError(f"{sampler} has no counterpart in diffusers - choose from {known}")
    scheduler: Any = getattr(importlib.import_module("diffusers"), classes[sampler])
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)


class _Watching(ExitStack):
    """Hooks on a pipeline's modules; `found` fills while it runs. The text encoder reads the prompt first,
    then its negative; the U-Net has both in a batch, the negative first."""

    def __init__(
        self, pipeline: Any, infos: dict[str, TensorInfo], branches: Sequence[str]
    ) -> None:
        super().__init__()
        self.pipeline, self.branches = pipeline, branches
        self.found: Sketches = {}
        self.steps, self.texts = -1, -1
        text = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
        roots = {"text": text, "unet": pipeline.unet, "vae": pipeline.vae}
        hears = {"text": self._hear_text, "unet": self._hear_unet, "vae": self._hear_vae}
        self.watchers = [
            Watcher(network, [i for i in infos.values() if i.root == root], hears[root])
            for root, network in roots.items()
        ]

    def __enter__(self) -> "_Watching":
        super().__enter__()
        counters = ((self.pipeline.text_encoder, self._text), (self.pipeline.unet, self._step))
        for network, count in counters:
            self.callback(network.register_forward_pre_hook(count).remove)
        for watcher in self.watchers:
            self.enter_context(watcher)
        return self

    def _text(self, *_: object) -> None:
        self.texts += 1

    def _step(self, *_: object) -> None:
        self.steps += 1

    def _hear_text(self, info: TensorInfo, x: Tensor) -> None:
        branch = (COND, UNCOND)[self.texts]
        self.found[Address(info.name, None, branch)] = Sketch.of(x)

    def _hear_unet(self, info: TensorInfo, x: Tensor) -> None:
        parts = x.chunk(len(self.branches)) if x.shape[0] > 1 else [x] * len(self.branches)
        for branch, part in zip(self.branches, parts, strict=True):
            self.found[Address(info.name, self.steps, branch)] = Sketch.of(part)

    def _hear_vae(self, info: TensorInfo, x: Tensor) -> None:
        self.found[Address(info.name)] = Sketch.of(x)
