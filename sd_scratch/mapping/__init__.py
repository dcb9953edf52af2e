"""What in the prompt and the noise makes what in the picture: experiments that return raw tensors, or a
`Report` with figures and tables.

Their definitions come from "Controlling Diffusion: Input-Output Mapping of the Components of a
Diffusion Model", its chapters 3 and 4; docs/mapping.md tells which is which, and what was added.
"""

from sd_scratch.mapping.adjustment import adjust, adjusted, adjustment_report
from sd_scratch.mapping.clip_score import clip_scores
from sd_scratch.mapping.daam import daam
from sd_scratch.mapping.field import field_report, make_blobs, run_sampler
from sd_scratch.mapping.gradient import (
    directional_derivative,
    exact_derivatives,
    gradient_maps,
    gradient_report,
    word_derivatives,
)
from sd_scratch.mapping.heat import Heat, heat_report, record_heat
from sd_scratch.mapping.inversion import invert
from sd_scratch.mapping.latent import film_report, guidance_report, latent_report
from sd_scratch.mapping.lens import lens
from sd_scratch.mapping.maps import Map
from sd_scratch.mapping.movement import (
    Plane,
    make_plane,
    movement_report,
    places_along,
    principal_components,
)
from sd_scratch.mapping.perturbation import difference, perturbation_maps, perturbation_report
from sd_scratch.mapping.prompt_to_prompt import prompt_to_prompt
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.seeds import Moments, draw_seeds, running, seeds_report
from sd_scratch.mapping.state import State
from sd_scratch.mapping.text_attention import (
    TextAttention,
    attention_report,
    text_attention,
    words_report,
)
from sd_scratch.mapping.words import find_word, name_of
