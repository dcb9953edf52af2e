"""Training a vocabulary: the classic example, the same result every time, texts that come back."""

import pytest

from sd_scratch.errors import ScratchError
from sd_scratch.scenes.captions import corpus
from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.text.vocabulary import number_tokens
from sd_scratch.training.bpe import FIXED_TOKENS, train_merges


def test_the_most_frequent_pair_first_and_ties_in_alphabetical_order() -> None:
    texts = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    merges = train_merges(texts, FIXED_TOKENS + 4)
    # e-s and s-t both occur nine times: e-s comes first in the alphabet.
    assert merges == [("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w")]


def test_order_of_texts_does_not_matter() -> None:
    texts = corpus(0, 300)
    assert train_merges(texts, 600) == train_merges(texts[::-1], 600)


def test_too_few_words_are_an_error() -> None:
    with pytest.raises(ScratchError, match="only 2 merges"):
        train_merges(["low"], FIXED_TOKENS + 3)


def test_words_of_the_captions_are_one_token_and_any_text_comes_back() -> None:
    merges = train_merges(corpus(0, 3000), 768)
    tokenizer = Tokenizer(number_tokens(merges), merges, 32)
    assert tokenizer.vocab_size == 768
    for word in (*SHAPES, *COLOURS, *SIZES, "background"):
        assert [token.text for token in tokenizer.encode(word).tokens] == [word]
    for text in ("a large red star on a blue background", "ein blaues quadrat", "\U0001f600"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
