"""Pictures that a page sends: what a run begins with, and where it paints."""

import hashlib
from dataclasses import dataclass, field

from PIL import Image

from sd_scratch.errors import UsageError
from sd_scratch.page.messages import PictureWish
from sd_scratch.pictures.masks import Mask, mask_in, resized
from sd_scratch.pictures.read import picture_in
from sd_scratch.pipeline.recipe import Recipe

HASH_DIGITS = 10  # of a file's sha256, as a recipe has them


@dataclass(frozen=True)
class Start:
    """What a run begins with, in its size: a picture, and where it is painted anew."""

    picture: Image.Image = field(repr=False)
    mask: Mask | None = field(default=None, repr=False)


class Album:
    """A session's picture and its mask, the last ones that it sent; each is known by its file's hash."""

    def __init__(self) -> None:
        self.picture: tuple[str, Image.Image] | None = None
        self.mask: tuple[str, Mask] | None = None
        self._start: tuple[tuple[str | int | None, ...], Start] | None = None

    def put(self, wish: PictureWish) -> tuple[str, int, int]:
        """Read a file and keep what it shows: its hash, width and height. Raises ScratchError for what is no
        picture."""
        digest = hashlib.sha256(wish.data).hexdigest()[:HASH_DIGITS]
        if wish.use == "mask":
            mask = mask_in(wish.data, wish.name)
            if not mask.any():
                raise UsageError(
                    f"{wish.name} has no white in it - paint where the picture is made anew"
                )
            self.mask = digest, mask
            return digest, mask.shape[1], mask.shape[0]
        picture = picture_in(wish.data, wish.name)
        self.picture = digest, picture
        return digest, *picture.size

    def start(self, recipe: Recipe) -> Start | None:
        """What a run of a complete recipe begins with; None for noise. Raises UsageError where the picture or
        the mask that it names is not here."""
        if recipe.init_image_hash is None:
            return None
        wanted = recipe.mask and recipe.mask.hash
        for what, have, name, digest in (
            ("picture", self.picture, recipe.init_image, recipe.init_image_hash),
            ("mask", self.mask, recipe.mask and recipe.mask.name, wanted),
        ):
            if digest and (have is None or have[0] != digest):
                raise UsageError(
                    f"this begins with the {what} {name or 'of a file'}, which is not on this page - a {what}"
                    " travels in no link: choose the file"
                )
        key = recipe.init_image_hash, wanted, recipe.width, recipe.height
        if self._start is None or self._start[0] != key:
            assert self.picture is not None
            width, height = recipe.width or 1, recipe.height or 1
            picture = self.picture[1].resize((width, height), Image.Resampling.LANCZOS)
            mask = resized(self.mask[1], width, height) if wanted and self.mask else None
            self._start = key, Start(picture, mask)
        return self._start[1]
