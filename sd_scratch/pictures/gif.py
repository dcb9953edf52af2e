"""Pictures one after the other in one file."""

import io
from collections.abc import Sequence

from PIL import Image


def encode_gif(
    pictures: Sequence[Image.Image], milliseconds: int, last: int | None = None
) -> bytes:
    """The bytes of a GIF file that begins again at its end. Each picture stays for `milliseconds`, the
    last one for `last` where that is given."""
    stay = [milliseconds] * len(pictures)
    if last is not None:
        stay[-1] = last
    file = io.BytesIO()
    pictures[0].save(
        file, format="GIF", save_all=True, append_images=pictures[1:], duration=stay, loop=0
    )
    return file.getvalue()
