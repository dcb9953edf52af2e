"""What a person might say of a scene, in many ways, with some of it left unsaid.

The full sentence is "a large red star in the top left on a blue background". Every attribute is
mentioned with its own probability, so that the model also learns what each word means alone, and
that what is not mentioned is free.
"""

from dataclasses import dataclass

import numpy as np

from sd_scratch.training.scenes.graph import Scene, SceneObject, generator, sample_scene

CAPTION_STREAM = 1_000  # captions draw from other random numbers than the scenes they describe

SYNONYMS = {
    "circle": ("disc", "ball"),
    "square": ("box",),
    "cross": ("plus",),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "small": ("little", "tiny"),
    "large": ("big", "huge"),
}
ARTICLES = ("a", "the", "")
PREFIXES = ("a picture of ", "an image of ", "a drawing of ", "a photo of ", "there is ")
TAILS = (" on a {} background", " with a {} background", ", {} background", " on {}")

P_ATTRIBUTE = 0.85
P_PLACE = 0.3
P_PREFIX = 0.15
P_SYNONYM = 0.15
P_TAGS = 0.05
P_UNTIDY = 0.05
P_FULL = 0.25  # the plain full sentence, said in the one way that people will try first


@dataclass(frozen=True)
class Caption:
    """A caption, and the attributes of the scene that it gives away."""

    text: str
    mentions: frozenset[str]


def full_caption(scene: Scene) -> str:
    """The plain sentence: ``a large red star on a blue background``."""
    item = scene.objects[0]
    phrase = f"{item.size} {item.colour} {item.shape}"
    return f"{_article(phrase)} {phrase} on a {scene.background} background".replace(
        "on a orange", "on an orange"
    )


def caption(scene: Scene, seed: int, index: int, variant: int = 0) -> Caption:
    """One of many captions of scene number `index`; each `variant` is another paraphrase."""
    rng = generator(seed, index, CAPTION_STREAM + variant)
    if rng.random() < P_FULL:
        return Caption(full_caption(scene), frozenset({"background", "colour", "shape", "size"}))
    mentions = _mentions(rng)
    words = _words(rng, scene, mentions)
    if rng.random() < P_TAGS:
        text = ", ".join(words[key] for key in ("shape", "colour", "size") if key in words)
        text += f", {words['background']} background" if "background" in words else ""
        return Caption(text, mentions - {"place"})
    text = _noun_phrase(rng, words)
    if "place" in mentions:
        text += _place_phrase(rng, scene.objects[0])
    if "background" in words:
        tail = str(rng.choice(TAILS)).format(words["background"])
        text += tail.replace("a orange", "an orange")
    if rng.random() < P_PREFIX:
        text = str(rng.choice(PREFIXES)) + text
    return Caption(_untidy(rng, text), mentions)


def _mentions(rng: np.random.Generator) -> frozenset[str]:
    spoken = {name for name in ("background", "colour", "size") if rng.random() < P_ATTRIBUTE}
    if rng.random() < P_ATTRIBUTE:
        spoken.add("shape")
    if rng.random() < P_PLACE:
        spoken.add("place")
    return frozenset(spoken)


def _words(rng: np.random.Generator, scene: Scene, mentions: frozenset[str]) -> dict[str, str]:
    """The word for each attribute that is mentioned. An unmentioned shape is a "shape"."""
    item = scene.objects[0]
    words = {"size": item.size, "colour": item.colour, "background": scene.background}
    words = {name: word for name, word in words.items() if name in mentions}
    words["shape"] = item.shape if "shape" in mentions else "shape"
    return {name: _synonym(rng, word) for name, word in words.items()}


def _synonym(rng: np.random.Generator, word: str) -> str:
    if word in SYNONYMS and rng.random() < P_SYNONYM:
        return str(rng.choice(SYNONYMS[word]))
    return word


def _noun_phrase(rng: np.random.Generator, words: dict[str, str]) -> str:
    phrase = " ".join(words[key] for key in ("size", "colour", "shape") if key in words)
    article = str(rng.choice(ARTICLES, p=(0.8, 0.1, 0.1)))
    if article == "a":
        article = _article(phrase)
    return f"{article} {phrase}".strip()


def _place_phrase(rng: np.random.Generator, item: SceneObject) -> str:
    row, column = item.place.split()
    if (row, column) == ("middle", "centre"):
        place = str(rng.choice(["in the centre", "in the middle"]))
    elif row == "middle":
        place = str(rng.choice([f"on the {column}", f"on the {column} side"]))
    elif column == "centre":
        place = str(rng.choice([f"at the {row}", f"near the {row}"]))
    else:
        place = f"in the {row} {column}" + str(rng.choice(["", " corner"]))
    return " " + place


def _untidy(rng: np.random.Generator, text: str) -> str:
    """Now and then a capital, a full stop or capitals all through."""
    if rng.random() >= P_UNTIDY:
        return text
    return str(rng.choice([text.capitalize(), text + ".", text.upper()]))


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


PLANNED = (
    "diamond ring hexagon crescent moon grey gray brown above below "
    "left right of under over beside next to between behind front inside one two three four five "
    "circles squares triangles stars hearts crosses rings diamonds hexagons and with without it "
    "them both each other empty shapes picture photo image drawing side near corner "
    "upper"
)
"""Words that the captions of richer scenes will need: one vocabulary then serves them all."""


def corpus(seed: int, count: int) -> list[str]:
    """Texts to train the tokenizer on: `count` captions, and each planned word a few times."""
    texts = [caption(sample_scene(seed, i), seed, i).text for i in range(count)]
    return texts + [word for word in PLANNED.split() for _ in range(3)]
