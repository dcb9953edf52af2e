"""Trains a byte pair encoding: from texts to the merges that a `Tokenizer` applies.

Sennrich et al. 2016 (arXiv:1508.07909), algorithm 1, on bytes, with CLIP's mark at the end of each
word. The vocabulary of n merges has 512 byte symbols, n merged ones, a start and an end.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

from sd_scratch.errors import ScratchError
from sd_scratch.text.cleaning import clean
from sd_scratch.text.tokenizer import CHUNKS
from sd_scratch.text.vocabulary import BYTE_SYMBOLS, END_OF_WORD, Merges

FIXED_TOKENS = 2 * len(BYTE_SYMBOLS) + 2

Word = tuple[str, ...]


def train_merges(texts: Iterable[str], vocab_size: int) -> Merges:
    """The merges for a vocabulary of `vocab_size` tokens, the most frequent pair first.

    Equally frequent pairs are taken in alphabetical order, so the result depends on the counts of
    the words alone. Raises `ScratchError` when the texts are too few for so many merges.
    """
    words = Counter[Word]()
    for text, count in Counter(texts).items():
        for chunk in CHUNKS["transformers"].findall(clean(text, "openai").text):
            words[_symbols(chunk)] += count
    merges: Merges = []
    while len(merges) < vocab_size - FIXED_TOKENS:
        pairs = _count_pairs(words)
        if not pairs:
            raise ScratchError(
                f"only {len(merges)} merges can be learnt from these texts - too few different"
                f" words for a vocabulary of {vocab_size} - use more texts, or a smaller vocabulary"
            )
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merge(word, best): count for word, count in words.items()})
    return merges


def _symbols(chunk: str) -> Word:
    *most, last = (BYTE_SYMBOLS[byte] for byte in chunk.encode("utf-8"))
    return (*most, last + END_OF_WORD)


def _count_pairs(words: Counter[Word]) -> Counter[tuple[str, str]]:
    pairs = Counter[tuple[str, str]]()
    for word, count in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return pairs


def _merge(word: Word, pair: tuple[str, str]) -> Word:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
