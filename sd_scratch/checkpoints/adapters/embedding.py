"""Textual inversions: new words, each some vectors of the token embedding.

Gal et al. 2022 (arXiv:2208.01618). Five layouts are in use: ``string_to_param`` (the original and
A1111), ``emb_params``, ``{token: vector}`` (diffusers), a list, and a bare tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.adapters.names import split_key
from sd_scratch.checkpoints.adapters.tensor_file import TensorFile, read_tensor_file
from sd_scratch.checkpoints.family import said_kind
from sd_scratch.checkpoints.load import Components
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home
from sd_scratch.networks.layers import computing_type
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.text.tokenizer import Tokenizer

ANY = "*"  # the placeholder of files that leave the name to the user
MAX_TOKENS = 64
FAMILY_OF_WIDTH = {1024: "Stable Diffusion 2.x", 1280: "SDXL's second text encoder"}


@dataclass(frozen=True)
class Embedding:
    """One new word: `vectors` ``[n, channels]``, and the `phrases` that stand for it in a prompt."""

    name: str
    phrases: tuple[str, ...]
    vectors: Tensor
    hash: str = ""

    @property
    def summary(self) -> str:
        return f"{self.name}: {len(self.vectors)} vectors for {' or '.join(self.phrases)}"


def read_embeddings(
    path: str | Path, components: Components, token: str | None = None
) -> tuple[Embedding, ...]:
    """The words of a file, checked against the model; most files hold one.

    A word goes by its file's name, by ``embedding:name``, and by its token where it has one (`token`
    gives it another). Raises ScratchError, in one line, for what is no textual inversion or is for
    another model.
    """
    path = at_home(path)
    file = read_tensor_file(path)
    room = components.config.text.max_position_embeddings - 2
    words = _words(file)
    if token is not None and len(words) > 1:
        raise UsageError(f"{path} - holds {len(words)} words, so one token cannot name it")
    embeddings = []
    for own, tensors in words.items():
        vectors = _vectors(path, own, tensors, components.config.text.hidden_size)
        if len(vectors) > room:
            raise ScratchError(f"{path} - {len(vectors)} vectors, and a prompt has room for {room}")
        name = path.stem if len(words) == 1 else own
        phrases = [name, f"embedding:{name}", own if token is None else token]
        phrases = [phrase for phrase in dict.fromkeys(phrases) if phrase.strip() not in ("", ANY)]
        embeddings.append(Embedding(name, tuple(phrases), vectors, file.whole_hash))
    return tuple(embeddings)


def bundled_embeddings(
    file: TensorFile, components: Components
) -> tuple[tuple[Embedding, ...], set[str]]:
    """The words in a LoRA's file, by cloneofsimo's tokens or kohya's bundles, and their keys."""
    words, used = {}, set()
    for key, tensor in file.tensors.items():
        bundle = key.removeprefix("bundle_emb.").partition(".string_to_param.")[0]
        is_token = key.startswith("<") and key.endswith(">")
        if is_token or (key.startswith("bundle_emb.") and ".string_to_param." in key):
            words[key if is_token else bundle] = [tensor]
            used.add(key)
    width = components.config.text.hidden_size
    return tuple(
        Embedding(name, (name,), _vectors(file.path, name, tensors, width), file.hash)
        for name, tensors in words.items()
    ), used


def extend(
    text: TextEncoder, tokenizer: Tokenizer, embeddings: Sequence[Embedding]
) -> tuple[TextEncoder, Tokenizer]:
    """A text encoder with more rows in its token embedding, which must be a copy of the shared one, and
    a tokenizer that leads to them. Raises UsageError for a phrase that two of them claim."""
    table = text.embeddings.token_embedding
    weight = table.weight.to(computing_type(text))
    rows, added = [weight], dict(tokenizer.added)
    first = table.num_embeddings
    for embedding in embeddings:
        ids = tuple(range(first, first + len(embedding.vectors)))
        first += len(embedding.vectors)
        rows.append(embedding.vectors.to(weight))
        for phrase in embedding.phrases:
            if phrase.casefold() in {other.casefold() for other in added}:
                raise UsageError(f"two embeddings are called {phrase!r} - give one another token")
            added[phrase] = ids
    wider = nn.Embedding(first, table.embedding_dim, _weight=torch.cat(rows))
    text.embeddings.token_embedding = wider.requires_grad_(False)
    text.config = replace(text.config, vocab_size=first)
    return text, tokenizer.changed(added=added)


def _words(file: TensorFile) -> dict[str, list[Tensor]]:
    """Token (or "") to its tensors, in any of the five layouts."""
    if kind := said_kind(file.tensors, "a textual inversion embedding"):
        raise ScratchError(f"{file.path} - {kind}")
    tensors = {key: tensor for key, tensor in file.tensors.items() if tensor.is_floating_point()}
    inside = {
        key.removeprefix("string_to_param."): [tensor]
        for key, tensor in tensors.items()
        if key.startswith("string_to_param.")
    }
    if inside:
        return inside
    if "emb_params" in tensors:
        return {"": [tensors["emb_params"]]}
    if not tensors or any(split_key(key) for key in tensors) or len(tensors) > MAX_TOKENS:
        raise ScratchError(
            f"{file.path} - no textual inversion (tensors such as {next(iter(file.tensors))})"
        )
    if {"clip_l", "clip_g"} & tensors.keys():
        raise ScratchError(
            f"{file.path} - this is a textual inversion for SDXL - use one for SD 1.x"
        )
    if all(key.partition(".")[0].isdecimal() for key in tensors):
        return {"": list(tensors.values())}
    return {key: [tensor] for key, tensor in tensors.items()}


def _vectors(path: Path, name: str, tensors: Sequence[Tensor], width: int) -> Tensor:
    """``[n, width]``, from ``[width]`` or ``[n, width]`` each; any other shape is an error."""
    for tensor in tensors:
        theirs = tensor.shape[-1] if tensor.ndim else 0
        if theirs != width:
            family = FAMILY_OF_WIDTH.get(theirs, "another model") if theirs != width else ""
            raise ScratchError(
                f"{path} - its vectors are {theirs} wide, for {family} - this model's are {width} wide"
            )
        if tensor.ndim > 2 or tensor.numel() == 0:
            raise ScratchError(
                f"{path} - {name or 'its tensor'} is {'x'.join(map(str, tensor.shape))} - vectors are"
                f" {width}, or n x {width}"
            )
    return torch.cat([tensor.reshape(-1, width).float() for tensor in tensors])
