"""CLIP's tokenizer: byte-level byte pair encoding, with every token traced back to the prompt.

Sennrich et al. 2016 (arXiv:1508.07909), section 3.2, on bytes as in GPT-2; Radford et al. 2021
(arXiv:2103.00020), section 2.4. A text becomes ids in four steps: clean it, split it into chunks (a run of
letters, a digit, a run of signs), write each chunk as bytes, and merge neighbouring symbols in the order of
the vocabulary's training.
"""

import functools
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import regex

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.text.cleaning import STYLES, Cleaned, blank_controls, check_text, clean
from sd_scratch.text.encoding import Encoding, Token
from sd_scratch.text.vocabulary import (
    BYTE_SYMBOLS,
    END,
    END_OF_WORD,
    START,
    Merges,
    Vocabulary,
    number_tokens,
    read_added,
    read_folder,
    read_padding,
    shipped_merges,
    write_folder,
)

SPECIAL = regex.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
CHUNK = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# OpenAI ignores case although the text is lower case already: it makes a long s (ſ) an s.
CHUNKS = {
    "openai": regex.compile(SPECIAL.pattern + "|" + CHUNK, regex.IGNORECASE),
    "transformers": regex.compile(CHUNK),
}

BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}
CACHED_WORDS = 4096
LONGEST_CACHED = 64  # bytes


class Tokenizer:
    """Text to token ids and back.

    Args:
        vocab: token strings to ids: all 256 byte symbols, each also with ``</w>``, the result of every merge,
            and the start and end tokens (`vocabulary.number_tokens` builds one).
        merges: pairs of token strings, in the order in which they are applied.
        max_length: ids per prompt, start and end included: 77 for CLIP.
        text_cleaning: ``"openai"``, as CLIP was trained, or ``"transformers"``, whose cleaning
            gives other ids for typographic quotes, ligatures, full-width letters and HTML entities.
        added: phrases with their own ids, in any case, such as ``"<cat-toy>"``; the longest is taken first,
            and one that begins or ends with a letter only as a whole word.
        padding: the token that fills prompts after their end, by its string: the end token in CLIP, ``"!"``
            in Stable Diffusion 2.x.

    Raises:
        ScratchError: no room for a token within `max_length`, an unknown `text_cleaning`, or a
            `padding` that is no token.
    """

    def __init__(
        self,
        vocab: Vocabulary,
        merges: Iterable[tuple[str, str]],
        max_length: int = 77,
        text_cleaning: str = "openai",
        added: Mapping[str, tuple[int, ...]] | None = None,
        padding: str = END,
    ) -> None:
        if text_cleaning not in STYLES:
            raise UsageError(f"unknown text cleaning {text_cleaning!r} - use {' or '.join(STYLES)}")
        if max_length < 3:
            raise ScratchError(
                f"{max_length} ids per prompt leave no room for a word - use 3 or more"
            )
        self.vocab = vocab
        self.merges: Merges = list(merges)
        self.max_length = max_length
        self.text_cleaning = text_cleaning
        self.added = dict(sorted((added or {}).items(), key=lambda item: -len(item[0])))
        self._phrases = _any_of(self.added)
        self.start_id = vocab[START]
        self.end_id = vocab[END]
        ids = self.added.get(padding, (vocab.get(padding, -1),))
        if ids[0] < 0:
            raise ScratchError(f"the padding {padding!r} is no token of this vocabulary")
        self.padding, self.pad_id = padding, ids[0]
        # transformers takes the padding for a mark, too: "!" in a prompt is 0 to it, and 256 to OpenCLIP.
        marks = dict.fromkeys([START, END, padding])
        self._marks = regex.compile(f"({'|'.join(map(regex.escape, marks))})")
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cache: dict[str, tuple[str, ...]] = {}

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def clip(max_length: int = 77, text_cleaning: str = "openai") -> "Tokenizer":
        """CLIP's vocabulary of 49,408 tokens, shipped with the package; loaded once.

        Raises ScratchError when its file is missing or damaged.
        """
        merges = shipped_merges()
        return Tokenizer(number_tokens(merges), merges, max_length, text_cleaning)

    @classmethod
    def from_folder(
        cls, folder: str | Path, max_length: int = 77, text_cleaning: str = "openai"
    ) -> "Tokenizer":
        """The tokenizer in a checkpoint's folder: vocab.json and merges.txt, or tokenizer.json.

        Raises ScratchError, which names the file, when one is missing, too large or garbled.
        """
        vocab, merges = read_folder(Path(folder))
        added = {p: ids for p, ids in read_added(Path(folder)).items() if p not in vocab}
        padding = read_padding(Path(folder)) or END
        return cls(vocab, merges, max_length, text_cleaning, added, padding)

    def changed(
        self,
        *,
        text_cleaning: str | None = None,
        added: Mapping[str, tuple[int, ...]] | None = None,
        padding: str | None = None,
    ) -> "Tokenizer":
        """The same tokenizer with some settings changed."""
        return Tokenizer(
            self.vocab,
            self.merges,
            self.max_length,
            self.text_cleaning if text_cleaning is None else text_cleaning,
            self.added if added is None else added,
            self.padding if padding is None else padding,
        )

    def save(self, folder: str | Path) -> None:
        """Write a folder that `from_folder`, transformers and diffusers read.

        Raises ScratchError when a file cannot be written.
        """
        write_folder(
            Path(folder), self.vocab, self.merges, self.max_length, self.added, self.padding
        )

    @property
    def vocab_size(self) -> int:
        """The number of rows of an embedding: one more than the largest id."""
        return max(*self.vocab.values(), *itertools.chain(*self.added.values())) + 1

    def encode(self, text: str) -> Encoding:
        """Turn a prompt of any length into `max_length` ids; the end token is always among them.

        Raises ScratchError (bad usage) for a NUL, half a surrogate pair, or more than 64 KB.
        """
        readable, notes = self.readable(text)
        tokens = list(self.tokens(readable))
        room = self.max_length - 2
        dropped = max(len(tokens) - room, 0)
        cut = text[tokens[room].start :] if dropped else ""
        if dropped:
            shown = cut if len(cut) <= 60 else cut[:57] + "..."
            notes.append(f"{len(tokens):,} tokens, the last {dropped:,} are ignored: '{shown}'")
        encoding = self.assemble(text, [tokens[:room]], notes)
        return replace(encoding, cut=cut, dropped=dropped)

    def readable(self, text: str) -> tuple[str, list[str]]:
        """The text with a space for each control character, and notes on what is unusual in it.

        Raises UsageError as `encode`.
        """
        check_text(text)
        readable, notes = blank_controls(text), []
        if readable != text:
            notes.append("control characters in the prompt are read as spaces")
        return readable, notes

    def assemble(
        self, text: str, chunks: Sequence[Sequence[Token]], notes: Sequence[str]
    ) -> Encoding:
        """Chunks of at most `max_length` - 2 tokens, each between its start and its end."""
        ids: list[int] = []
        placed: list[Token] = []
        if any(token.id in (self.start_id, self.end_id) for chunk in chunks for token in chunk):
            notes = [*notes, f"{START} and {END} in the prompt are read as the model's own marks"]
        for chunk in chunks:
            placed += [t._replace(position=len(ids) + i) for i, t in enumerate(chunk, start=1)]
            padding = [self.pad_id] * (self.max_length - 2 - len(chunk))
            ids += [self.start_id, *(token.id for token in chunk), self.end_id, *padding]
        return Encoding(tuple(ids), tuple(placed), text, notes=tuple(notes), length=self.max_length)

    def decode(self, ids: Iterable[int]) -> str:
        """Text for token ids: one space after each chunk; start and end tokens are left out.

        Raises ScratchError for an id that is not in the vocabulary.
        """
        parts: list[bytes] = []
        for index in ids:
            if index in (self.start_id, self.end_id):
                continue
            token = self._strings.get(index)
            if token is None:
                raise ScratchError(
                    f"token id {index} is not among the {len(self.vocab):,} known ones"
                )
            parts.append(_to_bytes(token.removesuffix(END_OF_WORD)))
            if token.endswith(END_OF_WORD):
                parts.append(b" ")
        return b"".join(parts).decode("utf-8", errors="replace").rstrip(" ")

    @functools.cached_property
    def _strings(self) -> dict[int, str]:
        strings = {index: token for token, index in self.vocab.items()}
        for phrase, (first, *others) in self.added.items():
            strings |= {first: phrase + END_OF_WORD, **dict.fromkeys(others, "")}
        return strings

    def tokens(self, text: str) -> Iterator[Token]:
        """The tokens of a text of any length, without start and end token."""
        at = 0
        ids = list(self.added.values())
        for match in self._phrases.finditer(text) if self._phrases else ():
            yield from self._plain_tokens(text[at : match.start()], at)
            for index in ids[match.lastindex - 1]:
                yield Token(index, match[0], *match.span())
            at = match.end()
        yield from self._plain_tokens(text[at:], at)

    def _plain_tokens(self, text: str, offset: int) -> Iterator[Token]:
        for chunk, is_special in self._chunks(text, offset):
            if is_special:
                start, end = chunk.spans[0][0], chunk.spans[-1][1]
                yield Token(self.vocab[chunk.text], chunk.text, start, end)
                continue
            data = chunk.text.encode("utf-8")
            spans = [
                span
                for char, span in zip(chunk.text, chunk.spans, strict=True)
                for _ in char.encode("utf-8")
            ]  # one per byte
            at = 0
            for string in self._merge(data):
                after = at + len(string.removesuffix(END_OF_WORD))
                part = data[at:after].decode("utf-8", errors="replace")
                yield Token(self.vocab[string], part, spans[at][0], spans[after - 1][1])
                at = after

    def _chunks(self, text: str, offset: int) -> Iterator[tuple[Cleaned, bool]]:
        """Clean the text and split it into chunks that are merged separately; mark the special tokens.

        Both are found in the cleaned text by OpenAI, but special tokens in the raw one by
        transformers, which then cleans the text between them.
        """
        raw_marks = self.text_cleaning == "transformers"
        for part in self._marks.split(text) if raw_marks else [text]:
            if raw_marks and self._marks.fullmatch(part):
                yield Cleaned(part, [(offset + i, offset + i + 1) for i in range(len(part))]), True
            else:
                cleaned = clean(part, self.text_cleaning, offset)
                for match in CHUNKS[self.text_cleaning].finditer(cleaned.text):
                    start, end = match.span()
                    chunk = Cleaned(cleaned.text[start:end], cleaned.spans[start:end])
                    yield chunk, not raw_marks and chunk.text in (START, END)
            offset += len(part)

    def _merge(self, data: bytes) -> tuple[str, ...]:
        """The token strings of one chunk."""
        symbols = [BYTE_SYMBOLS[byte] for byte in data]
        symbols[-1] += END_OF_WORD
        key = "".join(symbols)
        if key in self._cache:
            return self._cache[key]
        strings = tuple(merge_symbols(symbols, self._ranks))
        if len(data) <= LONGEST_CACHED:
            if len(self._cache) >= CACHED_WORDS:
                self._cache.clear()
            self._cache[key] = strings
        return strings


def _any_of(phrases: Iterable[str]) -> regex.Pattern[str] | None:
    """A pattern that finds the first matching phrase, each in its own group, and words only whole."""
    edge = {True: r"\b", False: ""}
    patterns = [
        f"({edge[phrase[0].isalnum()]}{regex.escape(phrase)}{edge[phrase[-1].isalnum()]})"
        for phrase in phrases
    ]
    return regex.compile("|".join(patterns), regex.IGNORECASE) if patterns else None


def _to_bytes(string: str) -> bytes:
    """The bytes of a token's string; a foreign token with other characters stands for itself."""
    if all(symbol in BYTES for symbol in string):
        return bytes(BYTES[symbol] for symbol in string)
    return string.encode("utf-8", errors="replace")


def merge_symbols(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Join neighbours until no pair has a rank: the lowest rank first, of equals the leftmost.

    The symbols form a linked list and the candidate pairs a heap, so n symbols take n log n steps: a prompt
    can be one word of 64 kB.
    """
    count = len(symbols)
    symbols = [*symbols, ""]  # nothing pairs with the empty string
    before, after = list(range(-1, count)), list(range(1, count + 1))
    pairs = enumerate(itertools.pairwise(symbols))
    queue = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
    heapq.heapify(queue)
    while queue:
        rank, left = heapq.heappop(queue)
        right = after[left]
        if ranks.get((symbols[left], symbols[right])) != rank:
            continue  # one of the two was joined with another since
        symbols[left] += symbols[right]
        symbols[right] = ""
        after[left] = after[right]
        before[after[left]] = left
        for i in (before[left], left):
            if i >= 0 and (pair := (symbols[i], symbols[after[i]])) in ranks:
                heapq.heappush(queue, (ranks[pair], i))
    return [symbol for symbol in symbols if symbol]
