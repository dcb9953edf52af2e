"""Weighted prompts of several chunks against transformers' text encoder and the definitions."""

import pytest
import torch

from tests.parity.references import reference_text_encoder
from tests.tiny import tiny_model

TEXT = "a (large (red:1.2) star:1.3) on a [blue] ground, " + "very " * 40 + "(old:0.5) BREAK a cat"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def theirs(model):
    theirs = reference_text_encoder(model.config.text).eval()
    ours = {
        key.removeprefix("text_model."): value for key, value in model.text.state_dict().items()
    }
    prefix = "text_model." if any(k.startswith("text_model.") for k in theirs.state_dict()) else ""
    theirs.load_state_dict({prefix + key: value for key, value in ours.items()}, strict=False)
    return theirs


def chunks_and_weights(model, typed):
    """Each chunk's ids and weights, from a list of (text, weight) put together by hand."""
    ids, weights = [], []
    for chunk in typed:
        tokens = [(t.id, w) for text, w in chunk for t in model.tokenizer.encode(text).tokens]
        padding = [(model.tokenizer.end_id, 1.0)] * (76 - len(tokens))
        row = [(model.tokenizer.start_id, 1.0), *tokens, *padding]
        ids.append([i for i, _ in row])
        weights.append([w for _, w in row])
    return torch.tensor(ids), torch.tensor(weights)


READINGS = {
    "a1111": [
        [
            ("a", 1.0),
            ("large", 1.3),
            ("red", 1.2 * 1.3),
            ("star", 1.3),
            ("on a", 1.0),
            ("blue", 1 / 1.1),
            ("ground, " + "very " * 40, 1.0),
            ("old", 0.5),
        ],
        [("a cat", 1.0)],
    ],
    "comfy": [
        [
            ("a", 1.0),
            ("large", 1.3),
            ("red", 1.2),
            ("star", 1.3),
            ("on a [blue] ground, " + "very " * 40, 1.0),
            ("old", 0.5),
            ("BREAK a cat", 1.0),
        ],
    ],
}


@pytest.mark.parametrize("syntax", READINGS)
@pytest.mark.parametrize("emphasis", ["a1111", "comfy", "none"])
def test_vectors(model, theirs, syntax, emphasis):
    ids, w = chunks_and_weights(model, READINGS[syntax])
    blank = torch.tensor([[ids[0, 0]] + [model.tokenizer.end_id] * 76])
    with torch.no_grad():
        z, empty = theirs(ids).last_hidden_state, theirs(blank).last_hidden_state
    rows = []
    for each, weights in zip(z, w, strict=True):
        column = weights[:, None]
        if emphasis == "comfy":
            rows.append(empty[0] + (each - empty[0]) * column)
        elif emphasis == "none":
            rows.append(each * column)
        else:
            rows.append(each * column * (each.mean() / (each * column).mean()))
    expected = torch.cat(rows)[None]
    prompt = model.prompt(TEXT, syntax=syntax, emphasis=emphasis)
    assert prompt.context.shape == expected.shape
    assert (prompt.context - expected).abs().max() <= 1e-5
    assert (prompt.empty - empty.repeat(1, len(ids), 1)).abs().max() <= 1e-5


def test_a_run_pads_the_shorter_prompt_with_empty_chunks(model, theirs):
    prompt = model.prompt("a red star BREAK a cat")
    noise = model.noise(3, 32, 32)
    with model.record("text.context") as trace:
        made = model.generate(prompt, noise, steps=2, guidance=3.0)
    uncond = trace["text.context:uncond"].tensor
    assert uncond.shape == (1, 154, 32)
    assert torch.equal(uncond, model.prompt("").empty.repeat(1, 2, 1))
    assert torch.equal(trace["text.context:cond"].tensor, prompt.context)
    other = model.generate(model.prompt("a red star break a cat"), noise, steps=2, guidance=3.0)
    assert not torch.equal(made.latent, other.latent)
