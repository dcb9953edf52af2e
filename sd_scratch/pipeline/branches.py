"""The branches of a U-Net call, by name, and their scales."""

from typing import NamedTuple

from sd_scratch.diffusion.guidance import faded
from sd_scratch.pipeline.checks import check_number

UNCOND, COND = "uncond", "cond"
PICTURED = "pictured"  # the picture without the prompt, of InstructPix2Pix
PERTURBED = "perturbed"  # the prompt, with perturbed self-attention


class Scales(NamedTuple):
    """How strongly a run is guided.

    Attributes:
        guidance: classifier-free guidance's scale; `rescale` is how far its contrast is reduced.
        picture: the scale of InstructPix2Pix' picture; None for other models.
        perturbed: the scale of perturbed attention in these `layers`, or None; `adaptive` is how fast it
        fades.
    """

    guidance: float
    rescale: float = 0.0
    picture: float | None = None
    perturbed: float | None = None
    adaptive: float = 0.0
    layers: str = ""

    @classmethod
    def checked(
        cls,
        guidance: float,
        rescale: float,
        picture: float | None,
        perturbed: float,
        adaptive: float,
        layers: str,
    ) -> "Scales":
        """The scales of a run's settings, with 0 for no perturbed attention; UsageError for anything but
        numbers."""
        return cls(
            check_number("guidance", guidance),
            check_number("guidance_rescale", rescale),
            picture,
            check_number("pag", perturbed) or None,
            check_number("pag_adaptive_scale", adaptive),
            layers,
        )

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches in the order of the batch; the prompt's own is the last."""
        asked: tuple[str, ...] = (UNCOND, COND)
        if self.picture is not None:
            asked = (COND,) if self.guidance == self.picture == 1.0 else (UNCOND, PICTURED, COND)
        elif self.guidance in (0.0, 1.0):
            asked = (COND,) if self.guidance else (UNCOND,)
        if self.perturbed is None:
            return asked
        return (*(branch for branch in asked if branch != COND), PERTURBED, COND)

    @property
    def facts(self) -> dict[str, float | str]:
        """The scales for a stored run: guidance, and the others that are not 0."""
        said = {
            "guidance_rescale": self.rescale,
            "pag": self.perturbed,
            "pag_adaptive_scale": self.adaptive,
            "pag_layers": self.perturbed and self.layers,
        }
        return {"guidance": self.guidance, **{name: n for name, n in said.items() if n}}

    def at(self, t: float) -> "Scales":
        """The scales at a timestep."""
        if self.perturbed is None or not self.adaptive:
            return self
        return self._replace(perturbed=faded(self.perturbed, self.adaptive, t))
