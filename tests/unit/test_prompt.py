import pytest
import torch

import sd_scratch as sd
from sd_scratch.errors import ScratchError, UsageError
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_prompt_carries_its_text_tokens_and_vectors(model):
    prompt = model.prompt("a red cat")
    assert prompt.text == "a red cat"
    assert [word.text for word in prompt.words] == ["a", "red", "cat"]
    assert prompt.context.shape == (1, 77, 32)
    assert torch.equal(prompt.empty, model.prompt("").context)


def test_words_are_found_by_their_text_and_number(model):
    prompt = model.prompt("a cat, a CAT on a catamaran")
    assert prompt.word("cat", 1).start == 2
    assert prompt.word("Cat", 2).start == 9
    assert prompt.word("catamaran").start == 18
    assert prompt.word("on").positions == (6,)


@pytest.mark.parametrize(
    ("word", "nth", "message"),
    [
        ("dog", None, "no word 'dog' in the prompt .* its words are: a, cat, and"),
        ("cat", None, "stands 2 times"),
        ("cat", 3, "there is no number 3"),
        ("cat", 0, "there is no number 0"),
    ],
)
def test_a_word_that_cannot_be_told(model, word, nth, message):
    with pytest.raises(ScratchError, match=message) as error:
        model.prompt("a cat and a cat").word(word, nth)
    assert isinstance(error.value, UsageError)


def test_a_word_beyond_the_last_token_is_said_to_be_cut(model):
    prompt = model.prompt("very " * 80 + "late", syntax="plain")
    with pytest.raises(ScratchError, match="beyond the last token"):
        prompt.word("late")


def test_scaling_a_word_changes_its_vectors_alone(model):
    prompt = model.prompt("a red cat")
    scaled = prompt.scale("red", 1.15)
    position = prompt.word("red").positions[0]
    assert torch.allclose(scaled.context[:, position], prompt.context[:, position] * 1.15)
    scaled.context[:, position] = prompt.context[:, position]
    assert torch.equal(scaled.context, prompt.context)


def test_scaling_from_the_empty_prompt(model):
    prompt = model.prompt("a red cat")
    position = prompt.word("cat").positions[0]
    gone = prompt.scale("cat", 0.0, origin="empty")
    assert torch.allclose(gone.context[:, position], prompt.empty[:, position])
    same = prompt.scale("cat", 1.0, origin="empty")
    assert torch.allclose(same.context, prompt.context, atol=1e-6)
    with pytest.raises(ScratchError, match="unknown origin"):
        prompt.scale("cat", 2.0, origin="nowhere")


def test_lerp_and_replacement(model):
    cat, dog = model.prompt("a cat"), model.prompt("a dog")
    assert torch.equal(cat.lerp(dog, 0.0).context, cat.context)
    assert torch.allclose(cat.lerp(dog, 1.0).context, dog.context)
    with pytest.raises(ScratchError, match="do not fit"):
        cat.with_context(torch.zeros(1, 3, 32))


def test_clip_skip(model):
    assert not torch.allclose(
        model.prompt("a cat", clip_skip=2).context, model.prompt("a cat").context
    )
    for wrong in (0, 4):
        with pytest.raises(ScratchError, match=r"not in 1\.\.3"):
            model.prompt("a cat", clip_skip=wrong)


def test_words_act_at_their_place_in_several_chunks(model):
    prompt = model.prompt("a (red:1.3) star BREAK a blue ring")
    positions = prompt.word("ring").positions
    assert positions == (80,) and prompt.context.shape == (1, 154, 32)
    scaled = prompt.scale("ring", 2.0)
    assert torch.allclose(scaled.context[:, 80], prompt.context[:, 80] * 2)
    noise = model.noise(1, 32, 32)
    with model.record(
        "unet.*.attn2.probs", branch="cond", reduce=[sd.reductions.words("red", "ring")]
    ) as trace:
        plain = model.generate(prompt, noise, steps=2, guidance=2.0)
    maps = trace[trace.names[0]].tensor
    with model.record("unet.*.attn2.probs", branch="cond") as trace:
        model.generate(prompt, noise, steps=2, guidance=2.0)
    probs = trace[trace.names[0]].tensor
    assert torch.allclose(maps, probs[..., [2, 80]])
    with model.edit("unet.*.attn2.probs", sd.edits.reweight({"ring": 0.0})):
        edited = model.generate(prompt, noise, steps=2, guidance=2.0)
    assert not torch.equal(plain.latent, edited.latent)


def test_weights_of_one_change_nothing_and_others_do(model):
    one, same, more = (model.prompt(f"a {x} star") for x in ("red", "(red:1.0)", "(red:1.4)"))
    assert torch.equal(one.context, same.context)
    assert not torch.equal(one.context, more.context)
    assert torch.equal(model.prompt("a (red:1.4) star", syntax="plain").empty, one.empty)


def test_a_prompt_that_changes_is_read_again_at_its_steps(model):
    noise = model.noise(1, 32, 32)
    settings = {"steps": 4, "guidance": 2.0, "sampler": "ddim"}
    changing, first = model.prompt("a [cat:dog:1] here"), model.prompt("a cat here")
    assert changing.changes and torch.equal(changing.context, first.context)
    whole, before = (list(model.steps(p, noise, **settings)) for p in (changing, first))
    same = [torch.equal(a.x0, b.x0) for a, b in zip(whole, before, strict=True)]
    assert same == [True, True, False, False]
    after = next(
        model.steps(model.prompt("a dog here"), noise.with_latent(whole[1].x_next), **settings)
    )
    assert after.x0.shape == whole[2].x0.shape
    with model.record(
        "unet.*.attn2.probs", branch="cond", reduce=[sd.reductions.words("here")]
    ) as trace:
        model.generate(changing, noise, **settings)
    assert trace.names
    with (
        pytest.raises(UsageError, match="no word 'cat'"),
        model.record("unet.*.attn2.probs", branch="cond", reduce=[sd.reductions.words("cat")]),
    ):
        model.generate(changing, noise, **settings)
    moves = model.prompt("a [big cat:dog:1] here")
    with (
        pytest.raises(UsageError, match="stands elsewhere"),
        model.record("unet.*.attn2.probs", branch="cond", reduce=[sd.reductions.words("here")]),
    ):
        model.generate(moves, noise, **settings)
    with pytest.raises(ScratchError, match="no one set of vectors"):
        changing.scale("here", 2.0)


@pytest.mark.parametrize(
    "text", ["a (red:1.3) star BREAK a ring", "a [cat:dog:1] here", "a [cat:dog:0.5]", "a [b|c]"]
)
def test_a_trace_replays_weights_chunks_and_changes(model, tmp_path, text):
    noise = model.noise(1, 32, 32)
    with model.record("unet.h") as trace:
        made = model.generate(model.prompt(text, emphasis="comfy"), noise, steps=3, guidance=2.0)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").latent, made.latent)


def test_what_a_model_cannot_read(model):
    with pytest.raises(UsageError, match="unknown emphasis 'x' - use a1111, comfy, none"):
        model.prompt("a", emphasis="x")
    with pytest.raises(UsageError, match="AND"):
        model.prompt("a AND b")


@pytest.mark.parametrize("emphasis", ["a1111", "comfy", "none"])
def test_weights_act_in_their_direction_on_what_the_shipped_model_looks_at(emphasis):
    model = sd.load()
    text, word = "a large red star to the left of a small blue ring on a white background", "ring"

    def attention(weight):
        prompt = model.prompt(text.replace(word, f"({word}:{weight})"), emphasis=emphasis)
        reduce = [sd.reductions.heads(), sd.reductions.words(word)]
        with model.record("unet.*.attn2.probs", branch="cond", reduce=reduce) as trace:
            model.generate(prompt, model.noise(3), sampler="ddim", steps=2)
        return sum(float(trace[name].tensor.mean()) for name in trace.names)

    assert attention(0.7) < attention(1.0) < attention(1.3)
