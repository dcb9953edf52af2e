"""Prompts that no model should be given, and tokenizer files that are missing, hostile or broken."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.text import vocabulary
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.text.vocabulary import number_tokens

MERGES = [("c", "a"), ("ca", "t</w>")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small tokenizer in two files."""
    Tokenizer(number_tokens(MERGES), MERGES).save(tmp_path)
    return tmp_path


@pytest.fixture
def single(tmp_path: Path) -> Callable[..., Path]:
    """Write a tokenizer.json with some values of its model replaced."""

    def write(**changes: object) -> Path:
        model: dict[str, Any] = {
            "type": "BPE",
            "end_of_word_suffix": "</w>",
            "vocab": number_tokens(MERGES),
            "merges": [list(pair) for pair in MERGES],
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model | changes}))
        return tmp_path

    return write


def refuse(folder: Path, *parts: str) -> None:
    """Loading fails with one line that has all the `parts`."""
    with pytest.raises(ScratchError) as caught:
        Tokenizer.from_folder(folder)
    message = str(caught.value)
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in message
    for part in (str(folder), *parts):
        assert part in message


class TestPrompts:
    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("a\0b", "NUL"),
            ("cut \ud83d", "U+D83D at position 4"),
            ("\udc80", "half a character"),
            ("\ud83d\ude42", "half a character"),
            ("x" * 65_537, "65,537 bytes"),
            ("é" * 32_769, "65,538 bytes"),
            ("x" * 10_000_000, "10,000,000 bytes"),
        ],
    )
    @pytest.mark.parametrize("cleaning", ["openai", "transformers"])
    def test_refused(self, text: str, part: str, cleaning: str) -> None:
        with pytest.raises(ScratchError, match=r"^the prompt ") as caught:
            Tokenizer.clip(77, cleaning).encode(text)
        assert isinstance(caught.value, UsageError)
        assert part in str(caught.value)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize(
        "text",
        [
            "x" * 65_536,  # one word
            "“" * 21_845,  # every character repaired
            "&amp;" * 13_107,
            "e" + "\u0301\u0323" * 16_383,  # one character with very many accents
            "Ã©" * 16_384,
            "<|endoftext|>" * 5_041,
            "👩\u200d🚀" * 5_957,
        ],
        ids=lambda text: ascii(text[:8]),
    )
    @pytest.mark.parametrize("cleaning", ["openai", "transformers"])
    def test_the_longest_are_read(self, text: str, cleaning: str) -> None:
        encoding = Tokenizer.clip(77, cleaning).encode(text)
        assert len(encoding.ids) == 77
        assert encoding.ids[-1] == 49407
        assert encoding.dropped > 1000
        assert text.endswith(encoding.cut)


class TestArguments:
    def test_unknown_cleaning(self) -> None:
        with pytest.raises(ScratchError, match="use openai or transformers") as caught:
            Tokenizer.clip(77, "none")
        assert isinstance(caught.value, UsageError)

    @pytest.mark.parametrize("length", [-1, 0, 2])
    def test_no_room(self, length: int) -> None:
        with pytest.raises(ScratchError, match="no room"):
            Tokenizer.clip(length)

    @pytest.mark.parametrize("index", [-1, 49408, 10**20])
    def test_unknown_id(self, index: int) -> None:
        with pytest.raises(ScratchError, match=f"token id {index} "):
            Tokenizer.clip().decode([320, index])


class TestTwoFiles:
    def test_good(self, folder: Path) -> None:
        assert [t.text for t in Tokenizer.from_folder(folder).encode("cat").tokens] == ["cat"]

    def test_absent(self, tmp_path: Path) -> None:
        refuse(tmp_path / "nowhere", "no tokenizer")
        refuse(tmp_path, "no tokenizer", "vocab.json", "tokenizer.json")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
    def test_one_of_two(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        refuse(folder, "no tokenizer")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
    def test_too_large(self, folder: Path, name: str) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate((16 << 20) + 1)
        refuse(folder, name, "larger than 16 MB")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
    def test_not_text(self, folder: Path, name: str) -> None:
        (folder / name).write_bytes(gzip.compress(b"x"))
        refuse(folder, name, "not UTF-8")

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "not valid JSON"),
            ("<!doctype html>", "not valid JSON"),
            ('{"a": 1', "not valid JSON"),
            ("[" * 200_000, "nested too deeply"),
            ('{"a": 1, "a": 1}', "appears twice"),
            ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
            ("[1, 2]", "a JSON list"),
            ("null", "a JSON NoneType"),
            ("{}", "lacks the token '!'"),
            ('{"a": true}', "the id of 'a'"),
            ('{"a": 1.0}', "the id of 'a'"),
            ('{"a": "1"}', "the id of 'a'"),
            ('{"a": -1}', "the id of 'a'"),
            ('{"a": 1e999}', "the id of 'a'"),
            ('{"a": 99999999999}', "the id of 'a'"),
            ('{"a": 1, "b": 1}', "the same id"),
        ],
    )
    def test_garbled_vocabulary(self, folder: Path, text: str, part: str) -> None:
        (folder / "vocab.json").write_text(text)
        refuse(folder, "vocab.json", part)

    @pytest.mark.parametrize(
        "token", ["a", "a</w>", "ÿ", "Ā</w>", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    )
    def test_incomplete_vocabulary(self, folder: Path, token: str) -> None:
        vocab = number_tokens(MERGES)
        del vocab[token]
        (folder / "vocab.json").write_text(json.dumps(vocab))
        refuse(folder, "vocab.json", f"lacks the token '{token}'")

    @pytest.mark.parametrize("row", ["c", "c a t", "c  a", " c a", "\x0b", "<html>", "c\ta"])
    def test_garbled_merges(self, folder: Path, row: str) -> None:
        (folder / "merges.txt").write_text(f"#version: 0.2\nc a\n{row}\n")
        refuse(folder, "merges.txt", "line 3")

    def test_merges_of_another_tokenizer(self, folder: Path) -> None:
        (folder / "merges.txt").write_text("#version: 0.2\nd o\n")
        refuse(folder, "lacks the token 'do'", "not of one tokenizer")

    def test_windows_line_ends_and_no_header(self, folder: Path) -> None:
        (folder / "merges.txt").write_bytes(b"c a\r\nca t</w>\r\n\r\n")
        assert Tokenizer.from_folder(folder).merges == MERGES


class TestSingleFile:
    def test_good(self, single: Callable[..., Path]) -> None:
        assert Tokenizer.from_folder(single()).merges == MERGES
        assert Tokenizer.from_folder(single(merges=["c a", "ca t</w>"])).merges == MERGES

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            ({"type": "WordPiece"}, "no BPE model"),
            ({"type": []}, "no BPE model"),
            ({"end_of_word_suffix": None}, "</w>"),
            ({"vocab": None}, "not an object"),
            ({"vocab": []}, "not an object"),
            ({"vocab": {"a": None}}, "the id of 'a'"),
            ({"merges": None}, "list of pairs"),
            ({"merges": {}}, "list of pairs"),
            ({"merges": [["c", "a", "t"]]}, "list of pairs"),
            ({"merges": [["c", 1]]}, "list of pairs"),
            ({"merges": ["cat"]}, "list of pairs"),
            ({"merges": [["d", "o"]]}, "lacks the token 'do'"),
        ],
    )
    def test_garbled(
        self, single: Callable[..., Path], changes: dict[str, object], part: str
    ) -> None:
        refuse(single(**changes), "tokenizer.json", part)

    @pytest.mark.parametrize("text", ["{}", '{"model": 3}', '{"model": null}'])
    def test_no_model(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tokenizer.json").write_text(text)
        refuse(tmp_path, "tokenizer.json", "no BPE model")

    def test_truncated(self, single: Callable[..., Path]) -> None:
        file = single() / "tokenizer.json"
        file.write_bytes(file.read_bytes()[:-100])
        refuse(file.parent, "tokenizer.json", "not valid JSON")


class TestShipped:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: None,
            lambda data: b"",
            lambda data: b"not gzip",
            lambda data: data[:-50],
            lambda data: gzip.compress(gzip.decompress(data).replace(b"i n", b"n i", 1)),
        ],
    )
    def test_damaged(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        damage: Callable[[bytes], bytes | None],
    ) -> None:
        data = damage(vocabulary.SHIPPED.read_bytes())
        file = tmp_path / "merges.txt.gz"
        if data is not None:
            file.write_bytes(data)
        monkeypatch.setattr(vocabulary, "SHIPPED", file)
        with pytest.raises(ScratchError, match="missing or damaged - install sd_scratch again"):
            vocabulary.shipped_merges()


def test_save_to_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ScratchError, match="cannot write"):
        Tokenizer(number_tokens(MERGES), MERGES).save(tmp_path / "taken")
