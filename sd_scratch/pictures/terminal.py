"""Pictures in a terminal: the escape sequences of kitty, iTerm2 and sixel."""

import base64
from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_scratch.pictures.png import encode_png

KITTY_CHUNK = 4096  # bytes of base64 that one sequence may carry
SIXEL_COLOURS = 255
BAND = 6  # rows of pixels of a line of sixels

ESCAPE, END = "\x1b", "\x1b\\"


def kitty(picture: Image.Image) -> str:
    """Kitty's graphics protocol, which WezTerm, Ghostty and Konsole speak too: a PNG in chunks."""
    data = base64.b64encode(encode_png(picture)).decode("ascii")
    chunks = [data[i : i + KITTY_CHUNK] for i in range(0, len(data), KITTY_CHUNK)]
    parts = []
    for i, chunk in enumerate(chunks):
        first = "a=T,f=100,q=2," if i == 0 else ""
        parts.append(f"{ESCAPE}_G{first}m={int(i < len(chunks) - 1)};{chunk}{END}")
    return "".join(parts)


def iterm2(picture: Image.Image) -> str:
    """iTerm2's inline images: a PNG in one sequence."""
    data = encode_png(picture)
    text = base64.b64encode(data).decode("ascii")
    return f"{ESCAPE}]1337;File=inline=1;size={len(data)}:{text}\x07"


def sixel(picture: Image.Image) -> str:
    """DEC's sixels: at most 255 colours, and six rows of pixels in a line of characters."""
    indexed = picture.convert("RGB").quantize(SIXEL_COLOURS, dither=Image.Dither.NONE)
    pixels = np.asarray(indexed)
    used = np.unique(pixels)
    palette = np.array(indexed.getpalette(), dtype=float).reshape(-1, 3)
    parts = [f'{ESCAPE}Pq"1;1;{pixels.shape[1]};{pixels.shape[0]}']
    for number in used:
        red, green, blue = (round(value * 100 / 255) for value in palette[number])
        parts.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, len(pixels), BAND):
        parts += [*_band(pixels[top : top + BAND]), "-"]
    return "".join([*parts, END])


def _band(rows: npt.NDArray[np.uint8]) -> Iterator[str]:
    """Six rows: for each colour in them, which of each column's six pixels have it."""
    bits = 1 << np.arange(len(rows))
    for number in np.unique(rows):
        masks = ((rows == number) * bits[:, None]).sum(0)
        line = "".join(_run(chr(63 + int(mask)), len(list(run))) for mask, run in groupby(masks))
        yield f"#{number}{line}$"


def _run(character: str, count: int) -> str:
    return character * count if count < 4 else f"!{count}{character}"


PROTOCOLS = {"kitty": kitty, "iterm2": iterm2, "sixel": sixel}


def find_protocol(environment: Mapping[str, str]) -> str | None:
    """What a terminal says that it can show. Of sixel none says anything: it has to be asked for."""
    program, term = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "TMUX" in environment or term.startswith("screen"):
        return None  # which swallow the sequences
    if "kitty" in term or "ghostty" in (program, term.removeprefix("xterm-")):
        return "kitty"
    if program in ("iTerm.app", "WezTerm"):
        return "iterm2"
    return None
