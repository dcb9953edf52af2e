"""The architecture as a drawing, made from nothing but the names and shapes of a model's tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from sd_scratch.errors import UsageError
from sd_scratch.tensors.names import TensorInfo

BOX_W, BOX_H, GAP, LEFT, TOP = 196, 62, 20, 20, 64
TEXT_X, DOWN_X, UP_X, VAE_X = LEFT, 270, 550, 820
INK, FAINT, RULE = "#222222", "#5f6368", "#9aa0a6"
FILLS = {"text": "#e3ecfa", "unet": "#e5f4e7", "vae": "#fbeedd", "value": "#ffffff"}
BLOCK = re.compile(
    r"(unet\.(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)|vae\.decoder\.\w+(?:\.\d+)?)\.(.*)"
)


@dataclass
class Room:
    """One block: how many residual blocks and transformers it has, and the shape that leaves it."""

    name: str
    resnets: set[str] = field(default_factory=set)
    transformers: set[str] = field(default_factory=set)
    shape: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        """What stands in its box."""
        parts = [(len(self.resnets), "residual"), (len(self.transformers), "transformer")]
        held = ", ".join(f"{count} {name}" for count, name in parts if count)
        return [self.name, held, f"out: {shape_of(self.shape)}"]


def overview(tensors: Sequence[TensorInfo]) -> str:
    """An SVG of text encoder, U-Net and decoder, from `StableDiffusion.tensors()`.

    Raises `UsageError` where the list is not that of a whole model.
    """
    known = {info.name: info for info in tensors}
    for name in ("text.context", "unet.conv_in", "unet.pred", "vae.image"):
        if name not in known:
            raise UsageError(f"{name} is not among the tensors - a drawing needs all of a model's")
    rooms = find_rooms(tensors)
    down = [room for name, room in rooms.items() if ".down_blocks." in name]
    middle = rooms["unet.mid_block"]
    up = [room for name, room in rooms.items() if ".up_blocks." in name and name.startswith("unet")]
    decoder = [room for name, room in rooms.items() if name.startswith("vae")]
    page = Page()
    _draw_text(page, known, tensors)
    _draw_unet(page, known, down, middle, up)
    _draw_decoder(page, known, decoder)
    return page.svg(VAE_X + BOX_W + LEFT)


def find_rooms(tensors: Sequence[TensorInfo]) -> dict[str, Room]:
    """The blocks of U-Net and decoder, in the order in which they run."""
    rooms: dict[str, Room] = {}
    for info in tensors:
        found = BLOCK.fullmatch(info.name)
        if found is None or len(info.shape) != 4:
            continue
        room = rooms.setdefault(found[1], Room(found[1].partition(".")[2]))
        part = re.match(r"(resnets|attentions)\.(\d+)", found[2])
        if part:
            (room.resnets if part[1] == "resnets" else room.transformers).add(part[2])
        if info.axes[1] == "channel" and not found[2].startswith("concat"):
            room.shape = info.shape
    return {name: room for name, room in rooms.items() if room.resnets}


def shape_of(shape: Sequence[int]) -> str:
    """``64 x 8 x 8``, without the batch."""
    return " x ".join(str(side) for side in shape[1:])


class Page:
    """Boxes and arrows, and how far down they reach."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.bottom = 0

    def box(self, x: int, y: int, lines: Sequence[str], fill: str, height: int = BOX_H) -> None:
        self.bottom = max(self.bottom, y + height)
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{height}" rx="6" fill="{FILLS[fill]}" stroke="{RULE}"/>'
        )
        shown = [line for line in lines if line]
        for i, line in enumerate(shown):
            at = y + height / 2 + 16 * (i - (len(shown) - 1) / 2) + 5
            look = f'fill="{INK}" font-weight="600"' if i == 0 else f'fill="{FAINT}"'
            self.parts.append(
                f'<text x="{x + BOX_W // 2}" y="{at:.0f}" text-anchor="middle" {look}>{escape(line)}</text>'
            )

    def arrow(self, *points: tuple[int, int], label: str = "", dashed: bool = False) -> None:
        way = " ".join(f"{x},{y}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{way}" fill="none" stroke="{FAINT}" stroke-width="1.5"{dashes} marker-end="url(#head)"/>'
        )
        if label:
            (ax, ay), (bx, by) = points[0], points[1]
            self.parts.append(
                f'<text x="{(ax + bx) // 2}" y="{(ay + by) // 2 - 5}" text-anchor="middle" fill="{FAINT}">{escape(label)}</text>'
            )

    def note(self, x: int, y: int, text: str) -> None:
        self.parts.append(f'<text x="{x}" y="{y}" fill="{FAINT}">{escape(text)}</text>')

    def title(self, x: int, text: str) -> None:
        self.parts.append(
            f'<text x="{x}" y="32" fill="{INK}" font-size="16" font-weight="600">{escape(text)}</text>'
        )

    def svg(self, width: int) -> str:
        height = self.bottom + LEFT
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif" font-size="12" role="img" aria-label="The architecture of the model">'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{FAINT}"/></marker></defs>'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        )
        return "\n".join([head, *self.parts, "</svg>\n"])


def row(number: int) -> int:
    """Where the box number `number` of a column begins."""
    return TOP + number * (BOX_H + GAP)


def _draw_text(page: Page, known: dict[str, TensorInfo], tensors: Sequence[TensorInfo]) -> None:
    layers = {
        info.name.split(".")[3] for info in tensors if info.name.startswith("text.encoder.layers.")
    }
    tokens = known["text.token_ids"].shape
    width = known["text.context"].shape[-1]
    page.title(TEXT_X, "Text encoder")
    page.box(TEXT_X, row(0), ["sentence", f"{tokens[-1]} token ids"], "value")
    page.box(TEXT_X, row(1), ["embeddings", f"{tokens[-1]} x {width}"], "text")
    page.box(
        TEXT_X,
        row(2),
        ["encoder.layers", f"{len(layers)} layers of attention", f"{tokens[-1]} x {width}"],
        "text",
    )
    page.box(TEXT_X, row(3), ["context", shape_of(known["text.context"].shape)], "value")
    for number in range(3):
        page.arrow(
            (TEXT_X + BOX_W // 2, row(number) + BOX_H), (TEXT_X + BOX_W // 2, row(number + 1))
        )
    page.note(TEXT_X, row(4) + 4, "to every transformer of the U-Net,")
    page.note(TEXT_X, row(4) + 20, "on the way up, too")


def _draw_unet(
    page: Page, known: dict[str, TensorInfo], down: list[Room], middle: Room, up: list[Room]
) -> None:
    """The way down, the middle below, and the way up, each level beside its own."""
    levels = len(down)
    page.title(DOWN_X, "U-Net: once for every step")
    page.box(DOWN_X, row(0), ["x_t and t", shape_of(known["unet.x"].shape)], "value")
    page.box(UP_X, row(0), ["pred", shape_of(known["unet.pred"].shape)], "value")
    for i, room in enumerate(down):
        page.box(DOWN_X, row(i + 1), room.lines(), "unet")
        page.arrow((DOWN_X + BOX_W // 2, row(i) + BOX_H), (DOWN_X + BOX_W // 2, row(i + 1)))
    for i, room in enumerate(up):
        at = row(levels - i)
        page.box(UP_X, at, room.lines(), "unet")
        page.arrow((UP_X + BOX_W // 2, at), (UP_X + BOX_W // 2, at - GAP))
        page.arrow((DOWN_X + BOX_W, at + 20), (UP_X, at + 20), label="skips", dashed=True)
    between, bottom = (DOWN_X + UP_X) // 2, row(levels + 1)
    page.box(
        between, bottom, [*middle.lines()[:2], f"h: {shape_of(known['unet.h'].shape)}"], "unet"
    )
    half = BOX_H // 2
    page.arrow(
        (DOWN_X + BOX_W // 2, bottom - GAP),
        (DOWN_X + BOX_W // 2, bottom + half),
        (between, bottom + half),
    )
    page.arrow(
        (between + BOX_W, bottom + half),
        (UP_X + BOX_W // 2, bottom + half),
        (UP_X + BOX_W // 2, bottom - GAP),
    )
    start, rail = row(3) + half, TEXT_X + BOX_W + 26
    for i, room in enumerate(down):  # the text enters wherever there is a transformer
        if room.transformers:
            page.arrow(
                (TEXT_X + BOX_W, start),
                (rail, start),
                (rail, row(i + 1) + half),
                (DOWN_X, row(i + 1) + half),
            )
    if middle.transformers:
        page.arrow(
            (TEXT_X + BOX_W, start),
            (rail, start),
            (rail, bottom + BOX_H + 14),
            (between + BOX_W // 2, bottom + BOX_H + 14),
            (between + BOX_W // 2, bottom + BOX_H),
        )
        page.bottom += 20


def _draw_decoder(page: Page, known: dict[str, TensorInfo], rooms: list[Room]) -> None:
    page.title(VAE_X, "Decoder: once, at the end")
    page.box(VAE_X, row(0), ["latent", shape_of(known["sampler.x0"].shape)], "value")
    for i, room in enumerate(rooms):
        page.box(VAE_X, row(i + 1), room.lines(), "vae")
    page.box(VAE_X, row(len(rooms) + 1), ["picture", shape_of(known["vae.image"].shape)], "value")
    for i in range(len(rooms) + 1):
        page.arrow((VAE_X + BOX_W // 2, row(i) + BOX_H), (VAE_X + BOX_W // 2, row(i + 1)))
    page.arrow((UP_X + BOX_W, row(0) + BOX_H // 2), (VAE_X, row(0) + BOX_H // 2), label="sampler")
