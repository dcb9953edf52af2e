"""Every word of every prompt has a name that finds it again."""

import pytest
import torch

from sd_scratch.errors import UsageError
from sd_scratch.mapping.words import find_word, name_of
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.tokenizer import Tokenizer

TEXTS = ["A cat and a dog, a CAT", "red red:2 red", "3:2 and 3", "2:1:2 2:1", "a:1 a A b:b"]


def prompt(text):
    return Prompt(text, Tokenizer.clip().encode(text), torch.empty(0), torch.empty(0))


@pytest.mark.parametrize("text", TEXTS)
def test_a_name_finds_its_word(text):
    read = prompt(text)
    names = [name_of(read, word) for word in read.words]
    assert len(set(names)) == len(names)
    assert [find_word(read, name) for name in names] == list(read.words)


def test_words_that_stand_once_have_no_number():
    read = prompt("A cat and a dog")
    assert [name_of(read, word) for word in read.words] == ["A:1", "cat", "and", "a:2", "dog"]


def test_what_is_not_there_or_ambiguous_is_refused():
    read = prompt("a cat and a cat")
    for name, says in (("cat", "2 times"), ("cat:3", "no number 3"), ("dog:2", "no word 'dog'")):
        with pytest.raises(UsageError, match=says):
            find_word(read, name)
