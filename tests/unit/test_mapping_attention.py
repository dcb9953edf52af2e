"""Attention to words, in the text encoder and in the U-Net, against sums written out as loops."""

import pytest
import torch

from sd_scratch.errors import ScratchError
from sd_scratch.mapping import Rendering, record_heat, text_attention
from sd_scratch.mapping.heat import Heat, choose_layers
from sd_scratch.mapping.text_attention import combine
from tests.tiny import tiny_model

TEXT = "a catamaran on a sea"  # catamaran is two tokens
LABELS = ["a:1", "catamaran", "on", "a:2", "sea"]
SETTINGS = {"sampler": "pndm", "steps": 3, "guidance": 3.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def rendering(model):
    return Rendering(model, model.noise(7, 48, 32), SETTINGS)


@pytest.fixture(scope="module")
def read(model):
    return text_attention(model, TEXT)


def test_the_first_layers_attention_is_the_softmax_of_queries_and_keys(model, read):
    layer = model.text.encoder.layers[0]
    ids = torch.tensor([read.prompt.encoding.ids])
    x = layer.layer_norm1(model.text.embeddings(ids))[0]
    heads, size = 4, 32 // 4
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        q, k = layer.self_attn.q_proj(x)[:, part], layer.self_attn.k_proj(x)[:, part]
        expected = torch.zeros(77, 77)
        for i in range(77):
            expected[i, : i + 1] = torch.softmax(k[: i + 1] @ q[i] / size**0.5, dim=0)
        assert (read.probs[0, head] - expected).abs().max() < 1e-5


def test_text_attention_has_every_layer_head_and_token(model, read):
    assert read.probs.shape == (3, 4, 77, 77)
    assert (read.probs.sum(dim=-1) - 1).abs().max() < 1e-5
    assert read.tokens[:3] == ["<start>", "a", "cat"] and len(read.tokens) == 77
    assert read.tokens.count("<end>") == 1 and read.tokens[-1] == "<padding>"
    assert torch.equal(read.prompt.context, model.prompt(TEXT).context)
    assert len(text_attention(model, TEXT, clip_skip=2).probs) == 2


def test_a_word_gets_the_sum_over_its_tokens_and_gives_their_mean(read):
    words = read.prompt.words
    assert [word.text for word in words] == TEXT.split()
    assert read.labels() == LABELS
    between = read.between_words()
    for i, giver in enumerate(words):
        for j, receiver in enumerate(words):
            pairs = [read.probs[1, 2, a + 1, b + 1] for a in giver.tokens for b in receiver.tokens]
            expected = sum(pairs) / len(giver.tokens)
            assert float(between[1, 2, i, j]) == pytest.approx(float(expected), abs=1e-6)
    received = [sum(float(between[1, 2, i, j]) for i in range(5)) for j in range(5)]
    assert read.received()[1, 2].tolist() == pytest.approx(received, abs=1e-5)


def test_with_start_and_end_nothing_is_lost(read):
    whole = read.between_words(special=True)
    assert (whole.sum(dim=-1) - 1).abs().max() < 1e-5
    assert read.labels(special=True) == ["<start>", *LABELS, "<end>", "<padding>"]
    assert torch.equal(whole[..., 1:-2, 1:-2], read.between_words())


def test_an_empty_group_gives_and_gets_nothing():
    combined = combine(torch.full((4, 4), 0.25), [[0], [], [1, 2, 3]])
    assert combined.tolist() == [[0.25, 0, 0.75], [0, 0, 0], [0.25, 0, 0.75]]


def test_heat_is_what_the_network_attends_to(model, rendering):
    prompt = model.prompt(TEXT)
    with model.record("unet.*.attn2.probs", branch="cond") as trace:
        plain = rendering.pixels([prompt])[0]
    pixels, heat = record_heat(rendering, prompt, prompt.words)
    assert torch.equal(pixels, plain)
    assert heat.calls == 4 and heat.heads == 4  # PNDM calls the network once more than it steps
    for layer, shares in heat.shares.items():
        probs = trace[f"{layer}.probs"].tensor[:, 0]  # [calls, heads, places, tokens]
        h, w = shares.shape[2:4]
        assert 2 * w == 3 * h  # as wide as the picture
        for i, word in enumerate(prompt.words):
            expected = sum(probs[..., token + 1] for token in word.tokens).unflatten(-1, (h, w))
            assert (shares[..., i] - expected).abs().max() < 1e-5


def test_words_of_another_prompt_meet_the_same_queries(model, rendering):
    prompt, other = model.prompt(TEXT), model.prompt("a dog")
    pixels, heat = record_heat(rendering, prompt, [other.word("dog")], other)
    _, own = record_heat(rendering, prompt, [prompt.word("sea")], prompt)
    assert torch.equal(pixels, rendering.pixels([prompt])[0])
    assert heat.words == ("dog",)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"
    with model.record(f"{layer}.q", branch="cond") as trace:
        rendering.pixels([prompt])
    q = trace[f"{layer}.q"].tensor[0, 0]  # [heads, places, d]
    k = model.unet.get_submodule(layer[5:]).to_k(other.context)[0].unflatten(-1, (4, -1))
    scores = torch.einsum("hpd,thd->hpt", q, k) / q.shape[-1] ** 0.5
    expected = scores.softmax(dim=-1)[..., 2]
    assert (heat.shares[layer][0, ..., 0].flatten(1) - expected).abs().max() < 1e-5
    assert not torch.equal(heat.shares[layer], own.shares[layer])


def test_maps_are_means_over_what_was_chosen():
    shares = {
        "unet.down.attn2": torch.rand(3, 2, 4, 6, 2, generator=torch.Generator().manual_seed(1)),
        "unet.mid.attn2": torch.rand(3, 2, 2, 3, 2, generator=torch.Generator().manual_seed(2)),
    }
    heat = Heat(shares, ("cat", "mat"), (48, 32))
    (cat, mat) = heat.maps(["*down*"], [1], slice(1, 3))
    expected = (shares["unet.down.attn2"][1, 1] + shares["unet.down.attn2"][2, 1]) / 2
    assert torch.allclose(cat.tensor, expected[..., 0]) and torch.allclose(
        mat.tensor, expected[..., 1]
    )
    assert cat.size == (48, 32) and cat.word == "cat"
    both = heat.maps()[0].tensor
    assert both.shape == (4, 6) and both.min() >= 0 and both.max() <= 1
    down = shares["unet.down.attn2"].mean(dim=(0, 1))[..., 0]
    assert (
        abs(float(2 * both.mean() - down.mean() - shares["unet.mid.attn2"][..., 0].mean())) < 0.05
    )


def test_what_is_not_there_is_told(model, rendering):
    heat = Heat({"unet.mid.attn2": torch.ones(3, 2, 1, 1, 1)}, ("cat",), (8, 8))
    with pytest.raises(ScratchError, match="no layer is named 'up'"):
        heat.maps(["up"])
    with pytest.raises(ScratchError, match="no head 2, only 0 to 1"):
        heat.maps(heads=[2])
    with pytest.raises(ScratchError, match="no call of the U-Net"):
        heat.maps(calls=slice(5, 9))
    assert choose_layers(["a", "b"], []) == ["a", "b"]
    prompt = model.prompt(TEXT)
    with pytest.raises(ScratchError, match="no branch 'cond'"):
        record_heat(rendering.with_settings(guidance=0.0), prompt, prompt.words)


def test_a_long_prompts_chunks_do_not_look_at_each_other(model):
    long, last = "a red circle on a blue square " * 12, "a green star"
    read = text_attention(model, long + last)
    count, length = len(read.prompt.encoding.chunks), read.prompt.encoding.length
    assert count == 2 and read.probs.shape[-1] == 2 * length == len(read.tokens)
    assert (
        not read.probs[..., :length, length:].any() and not read.probs[..., length:, :length].any()
    )
    assert torch.allclose(read.probs.sum(dim=-1), torch.ones(()), atol=1e-5)
    assert read.tokens.count("<start>") == read.tokens.count("<end>") == 2
    for token in read.prompt.encoding.tokens:
        assert read.tokens[token.position] == token.text
    between = read.between_words(special=True)
    assert torch.allclose(between.sum(dim=-1), torch.ones(()), atol=1e-5)
    # The second chunk is read as a prompt of its own.
    second = [t.text for t in read.prompt.encoding.tokens if t.position > length]
    alone = text_attention(model, " ".join(second))
    assert torch.allclose(alone.probs, read.probs[..., length:, length:], atol=1e-5)
