"""LoRAs that make a model do with few steps bring the sampler that they were distilled for.

Such a file is told by what it is called, by its own name or in its metadata (``ss_output_name``,
``modelspec.title``): its keys are those of any other LoRA.

    LCM        Luo et al. 2023 (arXiv:2311.05556): `lcm`, 4 steps of its own grid, no guidance
    TCD        Zheng et al. 2024 (arXiv:2402.19159): `tcd`, eta 0.3, likewise
    Hyper-SD   Ren et al. 2024 (arXiv:2404.13686): `ddim`, trailing, as many steps as its name says, and
               `tcd` with eta 1 for one; no guidance, but 5 in the files that keep it (CFG)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sd_scratch.config import ModelConfig

TITLES = ("ss_output_name", "modelspec.title")
HYPER_STEPS = (1, 2, 4, 8, 12)
HYPER_GUIDANCE = 5.0


@dataclass(frozen=True)
class FewSteps:
    """What a run is to be like with such a file. `kind` is what the file is."""

    kind: str
    sampler: str
    steps: int
    spacing: str
    guidance: float = 1.0
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.steps} step{'s' if self.steps > 1 else ''} of {self.sampler} ({self.spacing}),"
            f" guidance {self.guidance:g}"
        )

    def over(self, config: ModelConfig) -> ModelConfig:
        """The model's configuration with this as what a run starts from."""
        return replace(
            config,
            sampler=self.sampler,
            sampler_options=dict(self.options),
            spacing=self.spacing,
            sampler_lacks=(),
            steps=self.steps,
            guidance=self.guidance,
        )


def few_steps(name: str, metadata: Mapping[str, Any] | None = None) -> FewSteps | None:
    """What a LoRA of that name and metadata was distilled for; None for any other."""
    titles = [str((metadata or {}).get(key) or "") for key in TITLES]
    for title in (name, *titles):
        words = re.sub(r"[^a-z0-9]+", " ", title.casefold())
        if re.search(r"\bhyper ?sd", words):
            return _hyper(words)
        if re.search(r"\btcd\b", words):
            return FewSteps("a TCD LoRA", "tcd", 4, "lcm", options=(("eta", 0.3),))
        if re.search(r"\blcm\b", words):
            return FewSteps("an LCM LoRA", "lcm", 4, "lcm")
    return None


def _hyper(words: str) -> FewSteps | None:
    """None where the name does not say for how many steps it is."""
    found = re.search(r"\b(\d+) ?steps?\b", words)
    steps = int(found[1]) if found else 0
    if steps not in HYPER_STEPS:
        return None
    kind = f"a Hyper-SD LoRA of {steps} step{'s' if steps > 1 else ''}"
    guidance = HYPER_GUIDANCE if re.search(r"\bcfg\b", words) else 1.0
    if steps == 1:
        return FewSteps(kind, "tcd", 1, "lcm", guidance, (("eta", 1.0),))
    return FewSteps(kind, "ddim", steps, "trailing", guidance)


def brought(loras: Sequence[tuple[str, FewSteps | None, float]]) -> tuple[str, FewSteps] | None:
    """Of several LoRAs (name, what it brings, scale) the first that acts and brings something."""
    return next(((name, settings) for name, settings, scale in loras if settings and scale), None)
