"""A recipe's settings of a mask and margins, from which a picture can be repainted."""

import re
from typing import Any, NamedTuple

from sd_scratch.json_file import Fields
from sd_scratch.limits import SIDE

BLENDS = ("diffusers", "a1111", "comfy", "none")
CONTENTS = ("original", "fill", "noise")
FEATHER = 4  # pixels
PADDING = 32  # pixels
IMAGE_GUIDANCE = 1.5  # as InstructPix2Pix was published with
MAX_NAME = 255


class MaskUse(NamedTuple):
    """Where a picture was repainted, and how the rest was kept. "" is the model's default.

    `name` is the mask's file without its path, "" for only the picture's transparency (`alpha`) or the
    margins; `hash` the first 10 hex digits of its sha256; `blend` and `content` one of
    `BLENDS` and `CONTENTS`; `feather` and the margins `extend` (left, top, right, bottom) are in pixels, and
    so is `padding`, around the mask if only its surroundings are painted.
    """

    name: str = ""
    hash: str = ""
    alpha: bool = False
    blend: str = ""
    content: str = ""
    feather: int = FEATHER
    extend: tuple[int, ...] = (0, 0, 0, 0)
    padding: int | None = None

    @property
    def wants_file(self) -> bool:
        """Whether a mask's file is needed."""
        return bool(self.name) and not self.alpha


def mask_from_json(fields: Fields, value: Any) -> MaskUse:
    """A stored recipe's mask, checked."""
    if isinstance(value, list) and len(value) == 7:  # of before there was a padding
        value = [*value, None]
    match value:
        case [
            str(name),
            str(digest),
            bool(alpha),
            str(blend),
            str(content),
            int(feather),
            [int(), int(), int(), int()] as extend,
            (int() | None) as padding,
        ] if (
            len(name) <= MAX_NAME
            and re.fullmatch(r"[0-9a-f]{0,64}", digest)
            and blend in ("", *BLENDS)
            and content in ("", *CONTENTS)
            and all(type(n) is int and 0 <= n <= SIDE[1] for n in (feather, padding or 0, *extend))
        ):
            return MaskUse(name, digest, alpha, blend, content, feather, tuple(extend), padding)
    fields.fail(
        "mask",
        "[name, hash, alpha, blend, content, feather, [left, top, right, bottom], padding]",
    )
