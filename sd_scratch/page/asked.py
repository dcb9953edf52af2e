"""What a sentence about `scenes` asks for, held against what the oracle finds in a picture."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sd_scratch.scenes.captions import NUMBERS, PHRASES, SYNONYMS, plural
from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES
from sd_scratch.scenes.graph import relation_of as relation
from sd_scratch.scenes.oracle import Reading, ReadObject

MEANT = {other: word for word, others in SYNONYMS.items() for other in others}
WORDS = {plural(shape): shape for shape in SHAPES} | {plural(o): MEANT[o] for o in MEANT}
COUNT = {word: number for number, word in NUMBERS.items()}


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _all(words: Iterable[str], also: dict[str, str] = MEANT) -> str:
    own = set(words)
    return _any([*own, *(other for other, word in also.items() if word in own)])


OBJECT = re.compile(
    rf"\b(?:({_any(COUNT)}) )?(?:({_all(SIZES)}),? )?(?:({_all(COLOURS)}) )?"
    rf"({_all(SHAPES, MEANT | WORDS)})\b"
)
GROUND = re.compile(rf"\b({_all(COLOURS)}) background\b")
SAID = {phrase: name for name, phrases in PHRASES.items() for phrase in phrases}
NOTHING_ELSE = "nothing else"
RELATION = re.compile(rf"\b({_any(SAID)})\b")


@dataclass(frozen=True)
class _Thing:
    shape: str
    colour: str | None
    size: str | None
    count: int

    def fits(self, seen: ReadObject) -> bool:
        return (
            seen.shape == self.shape
            and self.colour in (None, seen.colour)
            and self.size in (None, seen.size)
        )


def asked(prompt: str, seen: Reading) -> list[tuple[str, bool]]:
    """Each thing that a prompt asks for, and whether the picture has it; what is no thing of `scenes` is not
    asked. Nothing where the prompt has none."""
    text = " ".join(prompt.lower().split())
    matches = list(OBJECT.finditer(text))
    things = [_thing(match) for match in matches]
    answers = []
    for thing, match in zip(things, matches, strict=True):
        found = sum(thing.fits(each) for each in seen.objects)
        same = sum(other == thing for other in things)
        answers.append((match[0], found >= max(thing.count, same)))
    if len(things) == 2 and (said := RELATION.search(text, matches[0].end(), matches[1].start())):
        pairs = [
            (a, b)
            for a in seen.objects
            for b in seen.objects
            if a is not b and things[0].fits(a) and things[1].fits(b)
        ]
        right = any(relation(a.x - b.x, a.y - b.y) == SAID[said[1]] for a, b in pairs)
        answers.append((f"{things[0].shape} {said[1]} {things[1].shape}", right))
    if things:
        wanted = sum(thing.count for thing in things)
        answers.append((NOTHING_ELSE, len(seen.objects) <= wanted))
    if ground := GROUND.search(text):
        answers.append((ground[0], seen.background == MEANT.get(ground[1], ground[1])))
    return answers


def _thing(match: re.Match[str]) -> _Thing:
    number, size, colour, shape = match.groups()
    shape = WORDS.get(shape, shape)
    words = [word and MEANT.get(word, word) for word in (shape, colour, size)]
    return _Thing(str(words[0]), words[1], words[2], COUNT.get(number, 1))
