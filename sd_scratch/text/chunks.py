"""A prompt of any length as chunks of 75 tokens, each read on its own (AUTOMATIC1111, ComfyUI).

CLIP has 77 places. A longer prompt becomes several chunks, whose vectors are concatenated.
"""

from collections.abc import Iterator
from itertools import groupby

from sd_scratch.errors import UsageError
from sd_scratch.text.changes import Changes, find_changes
from sd_scratch.text.cleaning import check_text
from sd_scratch.text.encoding import Encoding, Token
from sd_scratch.text.syntax import Piece, place, read, whole
from sd_scratch.text.tokenizer import Tokenizer

LOOK_BACK = 20  # tokens before the end of a chunk among which a comma may end it (A1111)
LONGEST_WORD = 8  # tokens from which on a word may be cut in two (ComfyUI)
MAX_CHUNKS = 40

Chunks = list[list[Token]]


def encode_prompt(
    tokenizer: Tokenizer,
    text: str,
    syntax: str = "a1111",
    step: int = 0,
    steps: int = 1,
    passed: int = 0,
) -> Encoding:
    """Read a prompt in one of `sd_scratch.text.syntax.SYNTAXES`, at a step from 0, in a pass after one of
    `passed` steps.

    Plain text is one chunk, and cut if it is longer, as in diffusers. Raises UsageError for a text that no
    tokenizer can read, for what the syntax refuses, and for more than 40 chunks.
    """
    if syntax == "plain":
        return tokenizer.encode(text)
    readable, notes = tokenizer.readable(text)
    typed = whole(readable)
    if syntax == "a1111":
        changes = find_changes(typed, passed)
        notes += _stray_notes(changes)
        typed = changes.at_call(step, steps)
    reading = read(typed, syntax)
    notes += reading.notes
    notes += [f"{network} in the prompt is left out" for network in reading.networks]
    sections = [
        [tokens for piece in section for tokens in _words(tokenizer, piece, syntax)]
        for section in reading.sections
    ]
    room = tokenizer.max_length - 2
    if syntax == "comfy":
        chunks = _whole_words(sections[0], room)
    else:
        chunks = [chunk for tokens in sections for chunk in _after_commas(tokens, tokenizer)]
        if len(sections) > 1 and not sections[-1]:
            chunks.pop()  # a BREAK at the very end begins nothing
    if len(chunks) > MAX_CHUNKS:
        raise UsageError(
            f"the prompt has {len(chunks)} chunks of {room} tokens, the limit is {MAX_CHUNKS} - shorten it"
        )
    return tokenizer.assemble(text, chunks, notes)


def _stray_notes(changes: Changes) -> list[str]:
    if changes.stray is None:
        return []
    return [
        f"the '|' at {place(changes.text, changes.stray)} stands in no [a|b]: nothing in the prompt changes on"
        " the way, as in A1111 - write \\| for the sign itself"
    ]


def check_prompt(text: str, syntax: str) -> None:
    """Refuse, without a tokenizer, what `encode_prompt` would. Raises UsageError."""
    check_text(text)
    typed = whole(text)
    if syntax == "a1111":
        find_changes(typed)
    read(typed, syntax)


def _words(tokenizer: Tokenizer, piece: Piece, syntax: str) -> Iterator[list[Token]]:
    """A piece's tokens with their weight and their place in the typed text: all together, or split at white
    space if words are kept whole."""
    text, spans = piece.text
    group: list[Token] = []
    before = 0
    for token in tokenizer.tokens(text):
        if syntax == "comfy" and group and text[before : token.start].isspace():
            yield group
            group = []
        before = token.end
        start, end = spans[token.start][0], spans[token.end - 1][1]
        group.append(token._replace(start=start, end=end, weight=piece.weight))
    if group:
        yield group


def _after_commas(words: Chunks, tokenizer: Tokenizer) -> Chunks:
    """A1111's chunks: what follows a comma among the last 20 tokens moves to the next. An added phrase of
    several ids is not cut in two."""
    room, comma = tokenizer.max_length - 2, tokenizer.vocab.get(",</w>", -1)
    added = {index for ids in tokenizer.added.values() for index in ids}
    chunks: Chunks = [[]]
    last = -1  # the comma's place in its chunk

    def begin(*tokens: Token) -> None:
        nonlocal last
        chunks.append(list(tokens))
        last = -1

    tokens = [token for word in words for token in word]
    for _, group in groupby(tokens, key=lambda t: t[2:4] if t.id in added else object()):
        unit = list(group)
        chunk = chunks[-1]
        if unit[0].id == comma:
            last = len(chunk)
        elif len(chunk) == room and last != -1 and room - last <= LOOK_BACK:
            chunks[-1], rest = chunk[: last + 1], chunk[last + 1 :]
            begin(*rest)
        for part in [unit] if len(unit) <= room else [[token] for token in unit]:
            if len(chunks[-1]) + len(part) > room:
                begin()
            chunks[-1] += part
    return chunks


def _whole_words(words: Chunks, room: int) -> Chunks:
    """ComfyUI's chunks: a word that does not fit begins the next; one of 8 tokens and more is cut."""
    chunks: Chunks = [[]]
    for word in words:
        rest = word
        while len(chunks[-1]) + len(rest) > room:
            left = room - len(chunks[-1]) if len(word) >= LONGEST_WORD else 0
            chunks[-1] += rest[:left]
            rest = rest[left:]
            chunks.append([])
        chunks[-1] += rest
    return chunks


def changes_in(text: str, syntax: str) -> bool:
    """Whether a prompt changes from step to step."""
    return syntax == "a1111" and find_changes(whole(text)).any


def stretches(text: str, steps: int, passed: int = 0) -> list[int]:
    """For each step of a changing prompt, the first step that reads the same: [0, 0, 0, 3, 3]."""
    changes = find_changes(whole(text), passed)
    first: dict[str, int] = {}
    return [first.setdefault(changes.at_call(step, steps).text, step) for step in range(steps)]
