"""Does a map tell the truth? Maps of words measured against what a word is known to do.

On `scenes` the truth is known in three ways: where the thing that a word names is in the picture (its
mask), what changes when only this word is another one (the same noise, the word swapped), and how fast
every pixel changes with the word's vectors (the exact derivative). docs/faithfulness.md has what came
of it.
"""

from sd_scratch.mapping.faithfulness.cases import Case, Masks, make_cases, read_masks
from sd_scratch.mapping.faithfulness.maps import Measured, measure
from sd_scratch.mapping.faithfulness.report import faithfulness_report
from sd_scratch.mapping.faithfulness.run import Part, count_pictures, examine
from sd_scratch.mapping.faithfulness.scores import Row, score
from sd_scratch.mapping.faithfulness.summary import (
    Figure,
    differences_against_exact,
    summarise,
    summarise_checks,
    table,
)
