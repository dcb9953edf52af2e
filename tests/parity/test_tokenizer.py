"""Token ids against OpenAI's code (known ids, and open_clip's copy of it) and against transformers."""

import gzip
import importlib.util
import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.text.vocabulary import number_tokens

# What OpenAI's code makes of prompts that are hard on a tokenizer.
TORTURE = [
    json.loads(line)
    for line in Path(__file__).with_name("clip_torture.jsonl").read_text("utf-8").splitlines()
]
ROOM = 70_000  # ids, so that nothing is cut


@pytest.fixture(scope="module")
def openai() -> Tokenizer:
    return Tokenizer.clip(ROOM)


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return Tokenizer.clip(ROOM, "transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.clip().save(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def open_clip() -> Any:
    """open_clip's copy of OpenAI's tokenizer, loaded without its package, which needs torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("open_clip is not installed")
    path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [token.id for token in tokenizer.encode(text).tokens]


def strange_texts(count: int, seed: int) -> Iterator[str]:
    """Texts of common words, troublesome pieces and characters from all of Unicode."""
    rng = random.Random(seed)
    pieces = [piece for row in TORTURE for piece in row["text"].split(" ") if len(piece) < 30] + [
        " "
    ] * 40
    # Not those that this Python's Unicode does not know: other libraries know other versions.
    letters = [
        chr(code)
        for code in (*range(0x20, 0x2FFF), *range(0x1F000, 0x1FAFF))
        if unicodedata.category(chr(code)) not in ("Cn", "Cc")
    ]
    for _ in range(count):
        yield "".join(
            rng.choice(pieces) if rng.random() < 0.7 else rng.choice(letters)
            for _ in range(rng.randrange(1, 15))
        )


def test_known_ids(openai: Tokenizer, shared_data: Path) -> None:
    with gzip.open(
        shared_data / "prompts" / "clip_token_ids.jsonl.gz", "rt", encoding="utf-8"
    ) as f:
        rows = [json.loads(line) for line in f]
    assert len(rows) == 1832
    assert [row["text"] for row in rows if ids(openai, row["text"]) != row["ids"]] == []


@pytest.mark.parametrize("row", TORTURE, ids=lambda row: ascii(row["text"][:20]))
def test_torture_as_openai(openai: Tokenizer, row: dict[str, Any]) -> None:
    assert ids(openai, row["text"]) == row["ids"]


@pytest.mark.parametrize("row", TORTURE, ids=lambda row: ascii(row["text"][:20]))
def test_torture_as_transformers(plain: Tokenizer, reference: Any, row: dict[str, Any]) -> None:
    text = row["text"]
    if "<|ENDOFTEXT|>" in text:  # transformers chops this into pieces of its own
        text = text.lower()
    assert ids(plain, text) == reference(text)["input_ids"][1:-1]


def test_the_two_ways_of_cleaning_differ(openai: Tokenizer, plain: Tokenizer) -> None:
    differ = [row["text"] for row in TORTURE if ids(openai, row["text"]) != ids(plain, row["text"])]
    assert "Tom &amp; Jerry &lt;3" in differ
    assert "a photograph of an astronaut riding a horse" not in differ


def test_padded_and_cut_as_transformers(reference: Any) -> None:
    tokenizer = Tokenizer.clip(77, "transformers")
    for text in ("", "a cat", "word " * 74, "word " * 75, "word " * 76, "🙂 cat " * 100):
        expected = reference(text, padding="max_length", max_length=77, truncation=True)
        assert list(tokenizer.encode(text).ids) == expected["input_ids"]


def test_ten_thousand_words(openai: Tokenizer, plain: Tokenizer, reference: Any) -> None:
    words = [word for row in TORTURE if row["text"].isascii() for word in row["text"].split()]
    words = [word for word in words if "&" not in word and "|" not in word]
    text = " ".join(words[i % len(words)] for i in range(10_000) if len(words[i % len(words)]) < 40)
    text = text[:65_000]
    expected = reference(text)["input_ids"][1:-1]
    assert len(expected) > 10_000
    assert ids(plain, text) == expected
    assert ids(openai, text) == expected


def test_strange_texts_as_transformers(plain: Tokenizer, reference: Any) -> None:
    for text in strange_texts(1500, seed=1):
        if "<|" not in text:
            assert ids(plain, text) == reference(text)["input_ids"][1:-1], ascii(text)


def test_strange_texts_as_openai(openai: Tokenizer, open_clip: Any) -> None:
    for text in strange_texts(1500, seed=2):
        if "<|" not in text:  # open_clip renamed the special tokens
            assert ids(openai, text) == open_clip.encode(text), ascii(text)


def test_torture_ids_are_those_of_openai(open_clip: Any) -> None:
    for row in TORTURE:
        if "<|" not in row["text"]:
            assert open_clip.encode(row["text"]) == row["ids"]


def test_decodes_as_transformers(openai: Tokenizer, reference: Any) -> None:
    for row in TORTURE:
        text = openai.decode(row["ids"])
        assert text == reference.decode(row["ids"], skip_special_tokens=True), ascii(row["text"])


def test_reads_what_transformers_saves(plain: Tokenizer, reference: Any, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    tokenizer = Tokenizer.from_folder(tmp_path, ROOM, "transformers")
    assert (tokenizer.vocab, tokenizer.merges) == (plain.vocab, plain.merges)


def test_transformers_reads_a_small_vocabulary(tmp_path: Path) -> None:
    """The folder of a model with 768 tokens, as both read it."""
    transformers = pytest.importorskip("transformers")
    merges = Tokenizer.clip().merges[:254]
    small = Tokenizer(number_tokens(merges), merges, 32, "transformers")
    assert small.vocab_size == 768
    small.save(tmp_path)
    reference = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path, 32, "transformers")
    for text in ("a large red star on a blue background", "the cat's # ## 🙂", "x " * 50):
        expected = reference(text, padding="max_length", max_length=32, truncation=True)[
            "input_ids"
        ]
        assert list(ours.encode(text).ids) == list(small.encode(text).ids) == expected
