"""From texts to the U-Net's context: encode prompts, one context for every step of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import whole
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.pipeline.branches import COND, PERTURBED, PICTURED, UNCOND
from sd_scratch.pipeline.emphasis import check_emphasis, weigh
from sd_scratch.pipeline.prompt import ChangingPrompt, Prompt
from sd_scratch.tensors import Taps
from sd_scratch.text.chunks import changes_in, encode_prompt, stretches
from sd_scratch.text.tokenizer import Tokenizer

Rows = dict[str, list[Prompt]]
"""For each branch, one prompt for every image."""


Texts = str | Prompt | Sequence[str | Prompt]
"""One text or prompt for all images, or one for each."""

DEFAULTS = (1, "a1111", "a1111")  # clip skip, syntax, emphasis


class Conditioning:
    """A tokenizer and a text encoder at work."""

    def __init__(self, tokenizer: Tokenizer, text: TextEncoder, taps: Taps) -> None:
        self.tokenizer, self.text, self.taps = tokenizer, text, taps

    @property
    def device(self) -> torch.device:
        return self.text.final_layer_norm.weight.device

    @torch.no_grad()
    def prompt(
        self,
        text: str,
        clip_skip: int,
        syntax: str,
        emphasis: str,
        step: int = 0,
        steps: int = 1,
        passed: int = 0,
    ) -> Prompt:
        """A text with its vectors, at a step after so many `passed` ones. Raises UsageError for an unreadable
        text, and for a clip skip beyond the encoder's layers."""
        clip_skip = check_clip_skip(self.text.config.num_hidden_layers, clip_skip)
        check_emphasis(emphasis)
        encoding = encode_prompt(self.tokenizer, text, syntax, step, steps, passed)
        nothing = self.tokenizer.encode("")
        chunks = encoding.chunks
        if len(chunks) == 1:
            with self.taps.calling(branches=(COND, None), edits=False):
                z = self._read([*chunks, *nothing.chunks], clip_skip)
                empty = z[1:]
                weighed = weigh(z[:1], empty, encoding.weights, emphasis)
                context, empty = self.text.tap("context", torch.cat([weighed, empty])).chunk(2)
        else:
            with self.taps.calling(branches=(None,), edits=False):
                empty = self._read(nothing.chunks, clip_skip)
            with self.taps.calling(branches=(COND,), edits=False):
                z = self._read(chunks, clip_skip)
                context = self.text.tap("context", weigh(z, empty, encoding.weights, emphasis))
            empty = empty.repeat(1, len(chunks), 1)
        prompt = Prompt(text, encoding, context, empty, clip_skip)
        return replace(prompt, syntax=syntax, emphasis=emphasis, changes=changes_in(text, syntax))

    def _read(self, chunks: Sequence[Sequence[int]], clip_skip: int | Sequence[int]) -> Tensor:
        """``[chunks, N, C]``."""
        x: Tensor = self.text(torch.tensor(chunks, device=self.device), clip_skip)
        return x

    def rows(
        self, prompt: Texts, negative: Texts | None, batch: int, branches: Sequence[str]
    ) -> Rows:
        """For each branch, one prompt for every image."""
        prompts = self._prompts("prompt", prompt, batch)
        negative = "" if negative is None else negative
        negatives = self._prompts("negative", negative, batch, prompts[0])
        rows = {UNCOND: negatives, PICTURED: negatives, PERTURBED: prompts, COND: prompts}
        return {branch: rows[branch] for branch in branches}

    def _prompts(
        self, name: str, given: Texts, batch: int, like: Prompt | None = None
    ) -> list[Prompt]:
        """One prompt for every image; texts are encoded with the settings of `like`, or the usual ones."""
        alone = isinstance(given, str | Prompt)
        if not alone and not isinstance(given, Iterable):
            raise UsageError(f"{name}: give a text, a Prompt or a list of them, not {given!r}")
        texts = [given] * batch if isinstance(given, str | Prompt) else list(given)
        if len(texts) != batch:
            raise UsageError(f"{len(texts)} {name}s for {batch} images - give one or {batch}")
        settings = (like.clip_skip, like.syntax, like.emphasis) if like else DEFAULTS
        made: dict[str, Prompt] = {}
        for text in texts:
            if not isinstance(text, str | Prompt):
                raise UsageError(f"{name}: give texts or Prompts, not {text!r}")
            if isinstance(text, str) and text not in made:
                made[text] = self.prompt(text, *settings)
        return [made[text] if isinstance(text, str) else text for text in texts]

    def of_steps(self, rows: Rows, steps: int) -> tuple[Rows, list[Rows]]:
        """The prompts of a whole run, and those of each of its steps, all with as many chunks as the longest:
        empty chunks follow a shorter one."""
        every = {id(p): p for prompts in rows.values() for p in prompts}
        stages = {key: self._stages(prompt, steps) for key, prompt in every.items()}
        chunks = max(len(p.encoding.chunks) for each in stages.values() for p in each)
        for key, each in stages.items():
            padded = {id(p): p.padded(chunks) for p in each}
            stages[key] = [padded[id(p)] for p in each]

        def at(step: int) -> Rows:
            return {branch: [stages[id(p)][step] for p in rows[branch]] for branch in rows}

        made = {tuple(id(stages[key][step]) for key in every): at(step) for step in range(steps)}
        of_steps = [made[tuple(id(stages[key][step]) for key in every)] for step in range(steps)]
        whole = {
            branch: [
                ChangingPrompt.of(stages[id(p)]) if p.changes else stages[id(p)][0] for p in prompts
            ]
            for branch, prompts in rows.items()
        }
        return whole, of_steps

    def _stages(self, prompt: Prompt, steps: int) -> list[Prompt]:
        if not prompt.changes:
            return [prompt] * steps
        whole, passed = prompt.counted or steps, prompt.passed
        firsts = stretches(prompt.text, whole, passed)[:steps]
        settings = (prompt.clip_skip, prompt.syntax, prompt.emphasis)
        told: dict[str, Any] = {"changes": False, "counted": prompt.counted, "passed": passed}
        made = {
            first: replace(self.prompt(prompt.text, *settings, first, whole, passed), **told)
            for first in sorted(set(firsts))
        }
        return [made[first] for first in firsts]

    def contexts(self, of_steps: Sequence[Rows], dtype: torch.dtype) -> list[Tensor]:
        """For every step the text vectors of all branches, ``[branches * B, tokens, channels]``."""
        made: dict[int, Tensor] = {}
        for rows in of_steps:
            if id(rows) not in made:
                made[id(rows)] = self._context(rows, dtype)
        return [made[id(rows)] for rows in of_steps]

    def _context(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        prompts = [prompt for branch in rows.values() for prompt in branch]
        context = torch.cat([prompt.context for prompt in prompts])
        with self.taps.calling(branches=tuple(rows)):
            if self.taps.wants("text", "text.context"):
                context = self._encode_again(prompts, context)
            return self.text.tap("context", context).to(dtype)

    def _encode_again(self, prompts: list[Prompt], context: Tensor) -> Tensor:
        """Run the text encoder for listeners, although prompts were encoded before the run.

        The result is used only if it was edited: another batch may change the last bits.
        """
        edited = self.taps.edits("text", "text.context")
        if any(prompt.by_hand for prompt in prompts):
            if edited:
                raise ScratchError(
                    "the text encoder is edited, but a prompt's vectors were set by hand - edit"
                    " text.context instead, or use the prompt as model.prompt made it"
                )
            return context
        chunks = [chunk for prompt in prompts for chunk in prompt.encoding.chunks]
        skips = [prompt.clip_skip for prompt in prompts for _ in prompt.encoding.chunks]
        again = self._read(chunks, skips)
        if not edited:
            return context
        parts = again.chunk(len(prompts))
        return torch.cat(
            [
                weigh(z, p.empty[:, : z.shape[1]], p.encoding.weights, p.emphasis)
                for z, p in zip(parts, prompts, strict=True)
            ]
        )


def check_clip_skip(layers: int, clip_skip: int) -> int:
    """A whole number; UsageError for more than the text encoder's layers."""
    number = whole(clip_skip)
    if number is None or not 1 <= number <= layers:
        raise UsageError(f"clip skip {clip_skip} is not in 1..{layers}")
    return number
