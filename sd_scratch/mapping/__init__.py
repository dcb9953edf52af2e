"""What in the prompt and the noise makes what in the picture: experiments that return raw tensors.

Their definitions come from "Controlling Diffusion: Input-Output Mapping of the Components of a
Diffusion Model", its chapters 3 and 4; docs/mapping.md tells which is which, and what was added.
"""

from sd_scratch.mapping.adjustment import adjust, adjusted
from sd_scratch.mapping.clip_score import clip_scores
from sd_scratch.mapping.daam import daam
from sd_scratch.mapping.gradient import (
    directional_derivative,
    exact_derivatives,
    gradient_maps,
    word_derivatives,
)
from sd_scratch.mapping.heat import Heat, record_heat
from sd_scratch.mapping.inversion import invert
from sd_scratch.mapping.lens import lens
from sd_scratch.mapping.maps import Map
from sd_scratch.mapping.movement import Plane, make_plane, places_along, principal_components
from sd_scratch.mapping.perturbation import difference, perturbation_maps
from sd_scratch.mapping.prompt_to_prompt import prompt_to_prompt
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.seeds import Moments, running
from sd_scratch.mapping.text_attention import TextAttention, text_attention

__all__ = [
    "Heat",
    "Map",
    "Moments",
    "Plane",
    "Rendering",
    "TextAttention",
    "adjust",
    "adjusted",
    "clip_scores",
    "daam",
    "difference",
    "directional_derivative",
    "exact_derivatives",
    "gradient_maps",
    "invert",
    "lens",
    "make_plane",
    "perturbation_maps",
    "places_along",
    "principal_components",
    "prompt_to_prompt",
    "record_heat",
    "running",
    "text_attention",
    "word_derivatives",
]
