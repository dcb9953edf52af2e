"""What every experiment begins with: a plan that is checked before any weights are read, then a model."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.load import read_tokenizer
from sd_scratch.checkpoints.source import called
from sd_scratch.cli.adapters import ask_for_loras, load_loras, with_few_steps
from sd_scratch.cli.load import find_model, read_weights
from sd_scratch.cli.map.progress import Progress
from sd_scratch.cli.map.results import Results
from sd_scratch.cli.request import DEFAULT_MODEL
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.errors import UsageError, log
from sd_scratch.mapping.maps import require_full_precision
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.state import State
from sd_scratch.mapping.words import find_word
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.complete import advise, complete, drawn
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.text.chunks import changes_in, encode_prompt
from sd_scratch.text.cleaning import check_text
from sd_scratch.text.encoding import Word

BATCH, SMALL = 8, 128 * 128  # pictures at a time, where one has no more pixels than that

THESIS = {
    "model": "CompVis/stable-diffusion-v1-4",
    "steps": 250,
    "cfg_scale": 7.5,
    "width": 512,
    "height": 512,
    "sampler": "pndm",
}
"""The source's settings (its tables 3.2 and 3.3), by the flags that they stand for."""


class Session:
    """A model that is known but not yet loaded, and the recipe of the run.

    Raises ScratchError (mostly bad usage) for everything that can be told without weights.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        if getattr(args, "thesis", False):
            _take_the_thesis(args)
        self.args = args
        sampler, samplers = getattr(args, "sampler", None), getattr(args, "samplers", None)
        for name in samplers or ([sampler] if sampler else []):
            get_sampler(name)
        recipe = _recipe(args)
        for text in (recipe.prompt, recipe.negative_prompt):
            check_text(text)
        texts = [args.prompt] if isinstance(args.prompt, str) else args.prompt
        recipe = recipe.over(loras=ask_for_loras(args, [*texts, recipe.negative_prompt]) or None)
        self.found = find_model(args, recipe, args.model or DEFAULT_MODEL)
        self.layout = self.found.layout
        self.tokenizer = read_tokenizer(self.layout)
        wanted = with_few_steps(args, recipe, self.layout.config)
        if "sampler" not in vars(args) and ("samplers" not in vars(args) or samplers):
            recipe = recipe.over(sampler=wanted.sampler)  # nothing is sampled by the model's own
        if recipe.steps is None and samplers:
            # All are compared in as many steps, so that the most needy one sets them.
            most = max(wanted.steps_with(get_sampler(name).name) for name in samplers)
            recipe = recipe.over(steps=most)
        self.recipe = complete(recipe, wanted)
        advise(self.recipe, wanted)

    def require_full_precision(self) -> None:
        require_full_precision(self.found.dtype)

    def cross_attention_layers(self) -> list[str]:
        """The names that the U-Net's cross-attention layers have, in order."""
        network = empty(UNet, self.layout.config.unet)
        return [f"unet.{name}" for name, _ in network.named_modules() if name.endswith("attn2")]

    # Prompts --------------------------------------------------------------------------------

    def read(self, text: str) -> Prompt:
        """A prompt with its words but without vectors, which takes no weights."""
        nothing = torch.empty(0)
        encoding = encode_prompt(self.tokenizer, text, self.recipe.syntax or "a1111")
        for note in encoding.notes:
            log.warning(f"prompt: {note}")
        return Prompt(text, encoding, nothing, nothing)

    def words(self, text: str, names: Sequence[str], *, changing: bool = False) -> list[Word]:
        """The words that are meant, all of the prompt's without names.

        Raises ScratchError for a word that is not there, cut off or there twice, for a prompt without
        any, and unless `changing` for one that is another text at another step.
        """
        prompt = self.read(text)
        if not changing and changes_in(text, self.recipe.syntax or "a1111"):
            raise UsageError(
                f"the prompt '{text}' is another one at another step, so that its words have no one place "
                "- use one without [from:to:when] and [a|b]"
            )
        if not names and not prompt.words:
            raise UsageError("the prompt has no words to map")
        return [find_word(prompt, name) for name in names] or list(prompt.words)

    def encode(self, text: str) -> Prompt:
        return self.model.prompt(text, **self.recipe.reading)

    @property
    def batch_size(self) -> int:
        """Pictures at a time: what was asked for, or what is fast with small and safe with large ones."""
        pixels = (self.recipe.width or 0) * (self.recipe.height or 0)
        return int(self.args.batch_size or (BATCH if pixels <= SMALL else 1))

    @property
    def text_recipe(self) -> Recipe:
        """The recipe of an experiment that makes no pictures."""
        no = dict.fromkeys(("seed", "steps", "sampler", "guidance", "width", "height"))
        return replace(self.recipe, **no)  # type: ignore[arg-type]

    # The model ------------------------------------------------------------------------------

    @cached_property
    def model(self) -> StableDiffusion:
        """The model; its weights are read when it is first asked for."""
        components = read_weights(self.args, self.found, self.recipe, 1)
        loras, uses = load_loras(self.args, components, self.recipe.loras or ())
        model = StableDiffusion(components, loras)
        if model.tokenizer is not components.tokenizer:
            raise UsageError(
                f"--lora {uses[0].name} - it has words of its own, which are not mapped"
            )
        self.recipe = self.recipe.over(loras=uses or None, model_hash=components.hash or None)
        return model

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe as `StableDiffusion.steps` wants it."""
        return {
            "negative": self.encode(self.recipe.negative_prompt),
            "sampler": self.recipe.sampler,
            "steps": self.recipe.steps,
            "guidance": self.recipe.guidance,
        }

    def rendering(
        self, on_step: Callable[[int], object] = lambda pictures: None, state: State | None = None
    ) -> Rendering:
        noise = self.model.noise(self.recipe.seed or 0, self.recipe.width, self.recipe.height)
        return Rendering(self.model, noise, self.settings, self.batch_size, on_step, state)

    def progress(self, pictures: int, results: Results | None = None) -> Progress:
        """A bar for that many pictures, counting their steps; `results` are those of a run that can be
        resumed."""
        folder = None if results is None else lambda: results.folder
        return Progress(pictures, self.recipe.steps or 0, folder)

    # Results ----------------------------------------------------------------------------------

    def results(self, experiment: str, *, grows: bool = False, shared: bool = False) -> Results:
        """Where they go. Raises ScratchError as `Results`."""
        several = {"batch_size": self.batch_size} if hasattr(self.args, "batch_size") else {}
        return Results(
            self.args.output,
            experiment,
            overwrite=self.args.overwrite,
            resume=getattr(self.args, "resume", False),
            grows=grows,
            shared=shared,
            facts=several,
        )

    def perform(
        self,
        experiment: str,
        pictures: int,
        report: Callable[[Rendering, Prompt], Report],
        **changed: Any,
    ) -> None:
        """An experiment on the one prompt: make its pictures under a bar, and save what it reports, beside
        the recipe with what the experiment `changed` of it. It can be resumed where it has the flag."""
        results = self.results(experiment)
        prompt = self.encode(self.args.prompt)
        resumes = hasattr(self.args, "resume")
        with self.progress(pictures, results if resumes else None) as bar:
            state = self.state(results) if resumes else None
            found = report(self.rendering(bar.update, state), prompt)
        results.save(found, self.recipe.over(**changed), state=state)

    def state(self, results: Results, *free: str, **more: Any) -> State:
        """What a run of these settings and weights has finished; `free` settings may differ."""
        _ = self.model  # whose hash is a part of the recipe
        known = {**self.recipe.known, "batch_size": self.batch_size, **more}
        return results.state({key: value for key, value in known.items() if key not in free})


def _take_the_thesis(args: argparse.Namespace) -> None:
    """Set what was not given to the source's settings, and say what."""
    given = vars(args).get
    taken = {name: value for name, value in THESIS.items() if given(name) is None}
    if given("samplers"):
        taken.pop("sampler", None)
    vars(args).update(taken)
    named = (f"{name.replace('cfg_scale', 'guidance')} {value}" for name, value in taken.items())
    log.info(f"--thesis sets {', '.join(named) or 'nothing that is not given'}")


def _recipe(args: argparse.Namespace) -> Recipe:
    """What was asked for; experiments without pictures have no steps, no seed and so on."""
    given = vars(args).get
    same: dict[str, Any] = {name: given(name) for name in ("steps", "sampler", "width", "height")}
    return Recipe(
        prompt=args.prompt if isinstance(args.prompt, str) else args.prompt[0],
        **same,
        negative_prompt=given("negative_prompt") or "",
        seed=None if given("seed") is None else drawn(args.seed),
        guidance=given("cfg_scale"),
        clip_skip=args.clip_skip,
        model=called(args.model or DEFAULT_MODEL),
        revision=args.revision,
        dtype=args.dtype,
        prediction=args.prediction,
        zero_snr=args.zsnr or None,
    )
