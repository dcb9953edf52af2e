"""The two tables of a byte-level BPE: token strings to ids, and the merges in the order of learning.

CLIP's are in the package. A checkpoint's folder has them as ``vocab.json`` and ``merges.txt``, or as the
``tokenizer.json`` of transformers 5.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sd_scratch.errors import ScratchError
from sd_scratch.files import check_target, read_file, write_file
from sd_scratch.json_file import parse_json

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"

SHIPPED = Path(__file__).parents[1] / "data" / "merges.txt.gz"
SHIPPED_SHA256 = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"  # unpacked
FILE_LIMIT = 16 << 20  # bytes
LARGEST_ID = 1 << 20

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]


def _byte_symbols() -> dict[int, str]:
    """One visible character per byte: itself where Latin-1 prints it, else one from U+0100 on.

    The order is that of the first 256 ids.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + index) for index, byte in enumerate(hidden)
    }


BYTE_SYMBOLS = _byte_symbols()


def number_tokens(merges: Merges) -> Vocabulary:
    """CLIP's numbering: the bytes, the bytes that end a word, one token per merge, start and end."""
    symbols = list(BYTE_SYMBOLS.values())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols)]
    tokens += [first + second for first, second in merges]
    return {token: index for index, token in enumerate([*tokens, START, END])}


def shipped_merges() -> Merges:
    """The 48,894 merges of CLIP, shipped with the package.

    Raises ScratchError if the installed file is missing or changed.
    """
    try:
        packed = SHIPPED.read_bytes()
        text = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        text = b""
    if hashlib.sha256(text).hexdigest() != SHIPPED_SHA256:
        raise ScratchError(f"{SHIPPED} - missing or damaged - install sd_scratch again")
    return parse_merges(text.decode("utf-8"), str(SHIPPED))


def read_folder(folder: Path) -> tuple[Vocabulary, Merges]:
    """The tables in a tokenizer's folder.

    Raises ScratchError, which names the file, for one that is missing, larger than 16 MB, garbled,
    or of a layout other than CLIP's.
    """
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    if vocab_file.is_file() and merges_file.is_file():
        where = str(vocab_file)
        vocab = _vocabulary(parse_json(read_file(vocab_file, FILE_LIMIT), where), where)
        merges = parse_merges(_text(merges_file), str(merges_file))
    elif (folder / "tokenizer.json").is_file():
        where = str(folder / "tokenizer.json")
        vocab, merges = _single_file(
            parse_json(read_file(folder / "tokenizer.json", FILE_LIMIT), where), where
        )
    else:
        raise ScratchError(
            f"{folder} - no tokenizer: neither vocab.json with merges.txt nor tokenizer.json is there"
        )
    check_tables(vocab, merges, where)
    return vocab, merges


def read_added(folder: Path) -> dict[str, tuple[int, ...]]:
    """The phrases of a tokenizer's folder with ids after the vocabulary's, such as
    ``"<cat-toy>"``: of added_tokens.json, tokenizer_config.json or tokenizer.json.

    Raises ScratchError, which names the file, for an entry that is damaged.
    """
    added: dict[str, Any] = {}
    for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json"):
        if not (file := folder / name).is_file():
            continue
        data: dict[str, Any] = parse_json(read_file(file, FILE_LIMIT), str(file))
        entries: list[tuple[Any, Any]] = list(data.items())
        if name == "tokenizer_config.json":
            decoder = data.get("added_tokens_decoder") or {}
            entries = [(_content(entry), _number(index)) for index, entry in decoder.items()]
        elif name == "tokenizer.json":
            entries = [(_content(e), e.get("id")) for e in data.get("added_tokens") or []]
        for phrase, index in entries:
            if not isinstance(phrase, str) or not phrase.strip() or type(index) is not int:
                raise ScratchError(f"{file} - {phrase!r} is no added token with an id")
            if not 0 <= index < LARGEST_ID:
                raise ScratchError(
                    f"{file} - the id of {phrase!r} is no number from 0 to {LARGEST_ID:,}"
                )
            added[phrase] = index
    return {p: (index,) for p, index in added.items() if p not in (START, END)}


def read_padding(folder: Path) -> str | None:
    """The token that a tokenizer's folder fills prompts up with, of tokenizer_config.json or
    special_tokens_map.json; None for a folder that does not say.

    Raises ScratchError, which names the file, for anything but a text.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (file := folder / name).is_file():
            continue
        data: dict[str, Any] = parse_json(read_file(file, FILE_LIMIT), str(file))
        said = data.get("pad_token")
        padding = _content(said) if isinstance(said, dict) else said
        if padding is None:
            continue
        if not isinstance(padding, str):
            raise ScratchError(f"{file} - `pad_token`: {padding!r} is no token")
        return padding
    return None


def _content(entry: object) -> object:
    return entry.get("content") if isinstance(entry, dict) else None


def _number(text: str) -> object:
    return int(text) if text.isdecimal() else None


def write_folder(
    folder: Path,
    vocab: Vocabulary,
    merges: Merges,
    max_length: int,
    added: Mapping[str, tuple[int, ...]],
    padding: str = END,
) -> None:
    """Write a folder that `read_folder`, transformers and diffusers read, each file atomically.

    Raises ScratchError when one cannot be written; the line says why.
    """
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special}
    rows = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    texts = {
        "vocab.json": json.dumps(vocab),
        "merges.txt": "\n".join(rows) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
    if own := {phrase: ids[0] for phrase, ids in added.items() if len(ids) == 1}:
        texts["added_tokens.json"] = json.dumps(own) + "\n"
    for name in texts:
        check_target(folder / name)
    for name, text in texts.items():
        write_file(folder / name, text.encode("utf-8"), overwrite=True)


def parse_merges(text: str, where: str) -> Merges:
    """Merges, one "first second" a line; only a ``#version`` line is a comment, "# #" is a merge."""
    merges: Merges = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise ScratchError(
                f"{where} - line {number} is not a merge of two tokens - download it again"
            )
        merges.append((first, second))
    return merges


def check_tables(vocab: Vocabulary, merges: Iterable[tuple[str, str]], where: str) -> None:
    """Check that every text has ids: all bytes, the result of every merge, the start and the end.

    Raises ScratchError, which begins with `where`.
    """
    needed = (*BYTE_SYMBOLS.values(), *(s + END_OF_WORD for s in BYTE_SYMBOLS.values()), START, END)
    for token in needed:
        if token not in vocab:
            raise ScratchError(
                f"{where} - lacks the token {token!r} - not a tokenizer of CLIP's kind"
            )
    for first, second in merges:
        if first + second not in vocab:
            raise ScratchError(
                f"{where} - lacks the token {first + second!r} that a merge makes - "
                "the vocabulary and the merges are not of one tokenizer"
            )


def _text(path: Path) -> str:
    try:
        return read_file(path, FILE_LIMIT).decode("utf-8")
    except UnicodeDecodeError:
        raise ScratchError(f"{path} - not UTF-8 text - download it again") from None


def _vocabulary(data: object, where: str) -> Vocabulary:
    if not isinstance(data, dict):
        raise ScratchError(f"{where} - the vocabulary is not an object of tokens and ids")
    for token, index in data.items():
        if type(index) is not int or not 0 <= index < LARGEST_ID:
            raise ScratchError(
                f"{where} - the id of {token!r} is no number from 0 to {LARGEST_ID:,}"
            )
    if len(set(data.values())) != len(data):
        raise ScratchError(f"{where} - two tokens have the same id")
    return data


def _single_file(data: dict[str, Any], where: str) -> tuple[Vocabulary, Merges]:
    """The tables inside a ``tokenizer.json``; a merge is a pair there, or a string in older files."""
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ScratchError(
            f"{where} - holds no BPE model - only tokenizers of CLIP's kind are read"
        )
    if model.get("end_of_word_suffix") != END_OF_WORD:
        raise ScratchError(f"{where} - marks no ends of words with {END_OF_WORD} as CLIP does")
    merges: Merges = []
    rows = model.get("merges")
    for row in rows if isinstance(rows, list) else [None]:
        pair = row.split(" ") if isinstance(row, str) else row
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(p, str) for p in pair)
        ):
            raise ScratchError(f"{where} - its merges are not a list of pairs of tokens")
        merges.append((pair[0], pair[1]))
    return _vocabulary(model.get("vocab"), where), merges
