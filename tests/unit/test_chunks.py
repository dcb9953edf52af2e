"""Prompts of several chunks: where each token stands, and that every word is found again."""

import pytest

from sd_scratch.errors import UsageError
from sd_scratch.text.chunks import MAX_CHUNKS, encode_prompt, stretches
from sd_scratch.text.encoding import Encoding
from sd_scratch.text.tokenizer import Tokenizer

CLIP = Tokenizer.clip()
COMMA = CLIP.vocab[",</w>"]


def texts(encoding: Encoding) -> list[str]:
    """The words of each chunk, as the model reads them."""
    return [CLIP.decode(chunk) for chunk in encoding.chunks]


@pytest.mark.parametrize("text", ["", "a cat", "A Cat, and 2 dogs!", "cat " * 75, "\x07é <b>"])
def test_a_text_without_syntax_is_read_as_before(text: str) -> None:
    assert encode_prompt(CLIP, text) == CLIP.encode(text)
    assert encode_prompt(CLIP, text, "comfy").ids == CLIP.encode(text).ids


def test_plain_text_is_cut_and_the_others_go_on() -> None:
    text = "cat " * 75 + "dog"
    assert encode_prompt(CLIP, text, "plain").cut == "dog"
    for syntax in ("a1111", "comfy"):
        encoding = encode_prompt(CLIP, text, syntax)
        assert texts(encoding) == ["cat " * 74 + "cat", "dog"]
        assert len(encoding.ids) == 154 and encoding.ids[77] == CLIP.start_id
        assert encoding.words[-1].positions == (78,)
        assert not encoding.notes


def split(ids: list[int]) -> list[list[int]]:
    """A1111's rule, a chunk at a time: it is full with 75 tokens; unless all is said, or the next one
    is a comma, it gives back what stands behind a comma that is one of its last 20 tokens."""
    chunks = []
    while True:
        chunk, rest = ids[:75], ids[75:]
        if rest and rest[0] != COMMA and COMMA in chunk[-20:]:
            keep = 75 - chunk[::-1].index(COMMA)
            chunk, rest = ids[:keep], ids[keep:]
        chunks.append(chunk)
        if not rest:
            return chunks
        ids = rest


@pytest.mark.parametrize("period", [3, 7, 19, 20, 21, 30])
@pytest.mark.parametrize("count", [74, 75, 76, 151, 300])
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_chunks_end_at_commas(period: int, count: int, offset: int) -> None:
    words = ["," if (i + offset) % period == 0 else "cat" for i in range(count)]
    encoding = encode_prompt(CLIP, " ".join(words))
    ids = [token.id for token in encoding.tokens]
    expected = split(ids)
    assert [
        chunk[1 : 1 + len(part)] for chunk, part in zip(encoding.chunks, expected, strict=True)
    ] == expected
    assert all(
        set(chunk[1 + len(part) :]) == {CLIP.end_id}
        for chunk, part in zip(encoding.chunks, expected, strict=True)
    )


def test_break_ends_a_chunk() -> None:
    assert texts(encode_prompt(CLIP, "a BREAK b")) == ["a", "b"]
    assert texts(encode_prompt(CLIP, "BREAK b BREAK")) == ["", "b"]
    assert texts(encode_prompt(CLIP, "a BREAK BREAK b")) == ["a", "", "b"]
    assert texts(encode_prompt(CLIP, "a break b")) == ["a break b"]
    assert texts(encode_prompt(CLIP, "a BREAK b", "plain")) == ["a break b"]


def test_comfyui_keeps_words_whole() -> None:
    (long,) = CLIP.encode("xylophonist").words
    assert len(long.tokens) == 4
    assert texts(encode_prompt(CLIP, "cat " * 73 + "xylophonist", "comfy"))[1] == "xylophonist"
    word = "xylophonist" * 3  # of more than 8 tokens: cut where the chunk ends
    assert len(encode_prompt(CLIP, "cat " * 73 + word, "comfy").words[-1].positions) > 8
    assert encode_prompt(CLIP, "cat " * 73 + word, "comfy").words[-1].positions[:3] == (74, 75, 78)


def test_an_added_phrase_is_not_cut_in_two() -> None:
    tokenizer = Tokenizer(CLIP.vocab, CLIP.merges, added={"<toy>": (49408, 49409, 49410)})
    encoding = encode_prompt(tokenizer, "cat " * 73 + "<toy> dog")
    assert [token.position for token in encoding.tokens[73:]] == [78, 79, 80, 81]
    weighed = encode_prompt(tokenizer, "a (<toy>:1.2)")
    assert weighed.weights == {2: 1.2, 3: 1.2, 4: 1.2}


@pytest.mark.parametrize("syntax", ["a1111", "comfy"])
def test_words_are_found_by_their_place_in_the_text_as_typed(syntax: str) -> None:
    text = "a (large (Red:1.2) \\(big\\) star:1.3) on " + "very " * 75 + "(blue) ground"
    encoding = encode_prompt(CLIP, text, syntax)
    for word in encoding.words:
        assert word.text == text[word.start : word.end]
        said = CLIP.decode(encoding.ids[i] for i in word.positions)
        assert said == word.text.lower()
    names = [word.text for word in encoding.words]
    assert [n for n in names if n != "very"][:6] == ["a", "large", "Red", "big", "star", "on"]
    by_word = {word.text: encoding.weights.get(word.positions[0], 1.0) for word in encoding.words}
    red = 1.2 * 1.3 if syntax == "a1111" else 1.2
    assert by_word["Red"] == pytest.approx(red) and by_word["star"] == pytest.approx(1.3)
    assert by_word["blue"] == pytest.approx(1.1) and by_word["ground"] == by_word["very"] == 1
    assert encoding.words[-1].positions[0] > 77


def test_what_a1111_reads_otherwise_than_it_looks_is_noted() -> None:
    assert encode_prompt(CLIP, "a | b [c:d:.5]").notes == (
        "the '|' at character 3 of the prompt ('| b [c:d:.5]') stands in no [a|b]: nothing in the prompt"
        " changes on the way, as in A1111 - write \\| for the sign itself",
    )
    assert encode_prompt(CLIP, "a | b").notes == ()
    assert texts(encode_prompt(CLIP, r"a \| b [c:d:.5]")) == ["a | b d"]
    (note,) = encode_prompt(CLIP, "(a BREAK b:1.2)").notes
    assert note.startswith(
        "the BREAK before character 10 of the prompt ('b:1.2)') stands in brackets"
    )
    assert encode_prompt(CLIP, "(a) BREAK (b)").notes == ()


def test_what_a_prompt_says_of_itself() -> None:
    assert encode_prompt(CLIP, "a <lora:x:0.8> b").notes == (
        "<lora:x:0.8> in the prompt is left out",
    )
    with pytest.raises(UsageError, match=f"the limit is {MAX_CHUNKS}"):
        encode_prompt(CLIP, "BREAK " * (MAX_CHUNKS + 1) + "a")


def test_a_changing_prompt_at_its_steps() -> None:
    assert texts(encode_prompt(CLIP, "a [cat:dog:2]", step=2, steps=5)) == ["a cat"]
    assert texts(encode_prompt(CLIP, "a [cat:dog:2]", step=3, steps=5)) == ["a dog"]
    assert stretches("a [cat:dog:2]", 5) == [0, 0, 0, 3, 3]
    assert stretches("[a|b]", 5) == [0, 0, 2, 0, 2]
    assert stretches("a (cat:2)", 3) == [0, 0, 0]
