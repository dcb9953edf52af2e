"""What a person might say of a scene, in many ways, with some of it left unsaid.

The full sentence is "a small green star to the left of a large red circle on a white background".
Every attribute is mentioned with its own probability, so that the model also learns what each word
means alone, and that what is not mentioned is free.
"""

from dataclasses import dataclass, replace

import numpy as np

from sd_scratch.scenes.graph import (
    COLOURS,
    COUNTS,
    INVERSE,
    PLACES,
    SHAPES,
    Scene,
    SceneObject,
    generator,
    sample_scene,
)

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
NUMBERS = {2: "two", 3: "three", 4: "four"}
PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""How each relation is said; the first is the plain sentence's."""

P_ATTRIBUTE = 0.85
P_PLACE = 0.35
P_RELATION = 0.75
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


def full_caption(scene: Scene, *, place: bool = False) -> str:
    """The plain sentence; with `place` it also says where a single object is.

    ``a large red star (in the top left) on a blue background``, ``a small green star to the left of a
    large red circle on a white background``, ``three small red stars on a blue background``.
    """
    phrases = [_said(item) for item in scene.objects]
    if scene.kind == "count":
        text = f"{NUMBERS[len(scene.objects)]} {_said(scene.objects[0], many=True)}"
    elif scene.relation is not None:
        first, second = (with_article(phrase) for phrase in phrases)
        text = f"{first} {PHRASES[scene.relation][0]} {second}"
    else:
        text = _listed([with_article(phrase) for phrase in phrases])
    if place and scene.kind == "one":
        text += f" {place_phrases(scene.objects[0].place)[0]}"
    return f"{text} on {with_article(scene.background)} background"


def plain_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """The plain sentence, of a single object now and then with its place."""
    mentions = {"background", "colour", "shape", "size"}
    if scene.relation is not None:
        mentions.add("relation")
    place = scene.kind == "one" and rng.random() < P_PLACE
    return Caption(
        full_caption(scene, place=place), frozenset(mentions | ({"place"} if place else set()))
    )


def caption(scene: Scene, seed: int, index: int, variant: int = 0) -> Caption:
    """One of many captions of scene number `index`; each `variant` is another paraphrase."""
    rng = generator(seed, index, CAPTION_STREAM + variant)
    if rng.random() < P_FULL:
        return plain_caption(scene, rng)
    mentions = _mentions(rng, scene)
    background = _synonym(rng, scene.background) if "background" in mentions else ""
    if scene.kind == "one" and rng.random() < P_TAGS:
        words = _words(rng, scene.objects[0], mentions)
        words = [words[-1], *words[-2::-1]] + ([f"{background} background"] if background else [])
        return Caption(", ".join(words), mentions - {"place"})
    text = _objects(rng, scene, mentions)
    if background:
        tail = str(rng.choice(TAILS)).format(background)
        text += tail.replace("a orange", "an orange")
    if rng.random() < P_PREFIX:
        text = str(rng.choice(PREFIXES)) + text
    return Caption(_untidy(rng, text), mentions)


def hard_negatives(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Plain sentences that are false of the scene in one thing each.

    The key says which: ``colour``, ``shape``, ``background``, and, where the scene has them, ``place``,
    ``count``, ``relation``, and ``binding`` for two objects that have exchanged their colours.
    """
    first = scene.objects[0]
    taken = {item.colour for item in scene.objects} | {scene.background}
    colour, background = rng.choice([c for c in COLOURS if c not in taken], size=2, replace=False)
    shape = str(rng.choice([s for s in SHAPES if s not in {i.shape for i in scene.objects}]))
    alike = scene.objects if scene.kind == "count" else (first,)
    others = scene.objects[len(alike) :]
    changed = {
        "colour": tuple(replace(item, colour=str(colour)) for item in alike) + others,
        "shape": tuple(replace(item, shape=shape) for item in alike) + others,
    }
    texts = {
        name: full_caption(replace(scene, objects=objects)) for name, objects in changed.items()
    }
    texts["background"] = full_caption(replace(scene, background=str(background)))
    if scene.kind == "one":
        elsewhere = str(rng.choice([place for place in PLACES if place != first.place]))
        true, false = (place_phrases(place)[0] for place in (first.place, elsewhere))
        texts["place"] = full_caption(scene, place=True).replace(true, false)
    if scene.kind == "count":
        count = int(rng.choice([n for n in COUNTS if n != len(scene.objects)]))
        texts["count"] = full_caption(replace(scene, objects=(first,) * count))
    if scene.relation is not None:
        texts["relation"] = full_caption(replace(scene, relation=INVERSE[scene.relation]))
    if scene.kind == "two" and first.shape != scene.objects[1].shape:
        a, b = scene.objects
        swapped = (replace(a, colour=b.colour), replace(b, colour=a.colour))
        texts["binding"] = full_caption(replace(scene, objects=swapped))
    return texts


def place_phrases(place: str) -> tuple[str, ...]:
    """How one of the nine places is said."""
    row, column = place.split()
    if place == "middle centre":
        return "in the centre", "in the middle"
    if row == "middle":
        return f"on the {column}", f"on the {column} side"
    if column == "centre":
        return f"at the {row}", f"near the {row}"
    return f"in the {place}", f"in the {place} corner"


def plural(shape: str) -> str:
    """``crosses`` for ``cross``."""
    return shape + ("es" if shape.endswith(("s", "x")) else "s")


def with_article(phrase: str) -> str:
    """``an orange star`` for ``orange star``."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _said(item: SceneObject, *, many: bool = False) -> str:
    return f"{item.size} {item.colour} {plural(item.shape) if many else item.shape}"


def _listed(phrases: list[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)


def _mentions(rng: np.random.Generator, scene: Scene) -> frozenset[str]:
    names = ("background", "colour", "size", "shape")
    spoken = {name for name in names if rng.random() < P_ATTRIBUTE}
    if scene.kind == "one" and rng.random() < P_PLACE:
        spoken.add("place")
    if scene.relation is not None and rng.random() < P_RELATION:
        spoken.add("relation")
    return frozenset(spoken)


def _words(
    rng: np.random.Generator, item: SceneObject, mentions: frozenset[str], *, many: bool = False
) -> list[str]:
    """Size, colour and shape, as far as they are mentioned. An unmentioned shape is a "shape"."""
    words = [getattr(item, name) for name in ("size", "colour") if name in mentions]
    shape = _synonym(rng, item.shape) if "shape" in mentions else "shape"
    return [*(_synonym(rng, word) for word in words), plural(shape) if many else shape]


def _synonym(rng: np.random.Generator, word: str) -> str:
    if word in SYNONYMS and rng.random() < P_SYNONYM:
        return str(rng.choice(SYNONYMS[word]))
    return word


def _objects(rng: np.random.Generator, scene: Scene, mentions: frozenset[str]) -> str:
    """The part of a caption that names the objects."""
    if scene.kind == "count":
        words = _words(rng, scene.objects[0], mentions, many=True)
        return " ".join([NUMBERS[len(scene.objects)], *words])
    phrases = [_noun_phrase(rng, _words(rng, item, mentions)) for item in scene.objects]
    if "relation" in mentions and scene.relation is not None:
        relation = scene.relation
        if rng.random() < 0.5:
            phrases, relation = phrases[::-1], INVERSE[relation]
        phrase = PHRASES[relation][int(rng.integers(2))]
        return f"{phrases[0]} {phrase} {phrases[1]}"
    if "place" in mentions:
        return f"{phrases[0]} {rng.choice(place_phrases(scene.objects[0].place))}"
    return _listed([phrases[i] for i in rng.permutation(len(phrases))])


def _noun_phrase(rng: np.random.Generator, words: list[str]) -> str:
    phrase = " ".join(words)
    article = str(rng.choice(ARTICLES, p=(0.8, 0.1, 0.1)))
    return with_article(phrase) if article == "a" else f"{article} {phrase}".strip()


def _untidy(rng: np.random.Generator, text: str) -> str:
    """Now and then a capital, a full stop or capitals all through."""
    if rng.random() >= P_UNTIDY:
        return text
    return str(rng.choice([text.capitalize(), text + ".", text.upper()]))


PLANNED = (
    "hexagon hexagons crescent crescents moon grey gray brown one five over beside next between behind "
    "front inside without it them both each other empty side upper lower photograph"
)
"""Words that no caption has, but that people may try."""


def corpus(seed: int, count: int) -> list[str]:
    """Texts to train the tokenizer on: `count` captions, and rarer words a few times each."""
    texts = [caption(sample_scene(seed, i), seed, i).text for i in range(count)]
    words = [*PLANNED.split(), *map(plural, SHAPES)]
    return texts + [word for word in words for _ in range(3)]
