"""Ready-made edits, each against the sentence that describes it."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.tensors import Address, At, Follow, Trace, edit_from_plain
from sd_scratch.tensors.edits import (
    ablate,
    add,
    lerp,
    patch,
    reweight,
    scale,
    scale_word,
    set_to,
    shift,
    swap,
)

PROBS = ("batch", "head", "query", "token")
PICTURE = ("batch", "channel", "height", "width")
CONTEXT = ("batch", "token", "channel")


class FakePrompt:
    """Words with given positions, and vectors of the empty prompt that are all 7."""

    text = "fake"

    def __init__(self, **positions: list[int]) -> None:
        self.positions = positions
        self.empty = torch.full((1, 5, 3), 7.0)

    def word(self, text: str, nth: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(text=text, positions=tuple(self.positions[text]))


PROMPTS = (FakePrompt(cat=[1], dog=[3]), FakePrompt(cat=[2, 3], dog=[4]))


def at(axes: tuple[str, ...], step: int | None = None) -> At:
    return At("net.x", axes, call=step, branch="cond", prompts=PROMPTS)


def test_scale_add_set_and_lerp():
    x, y = torch.randn(2, 3, 4, 4), torch.randn(3, 1, 1)
    assert torch.equal(scale(2.0)(x, at(PICTURE)), x * 2)
    assert torch.equal(add(1.0)(x, at(PICTURE)), x + 1)
    assert torch.equal(add(y, scale=0.5)(x, at(PICTURE)), x + 0.5 * y)
    assert torch.equal(set_to(y)(x, at(PICTURE)), y.expand(2, 3, 4, 4))
    assert torch.equal(lerp(y, 1.0)(x, at(PICTURE)), y.expand(2, 3, 4, 4))
    assert torch.equal(lerp(y, 0.0)(x, at(PICTURE)), x)


def test_edits_take_the_dtype_of_what_they_edit():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float16)
    for edit in (add(torch.randn(3, 1, 1)), set_to(torch.zeros(1)), lerp(torch.ones(1), 0.5)):
        assert edit(x, at(PICTURE)).dtype == torch.float16


def test_ablating_heads_and_channels():
    x = torch.randn(2, 4, 6, 5)
    zero = ablate(heads=[1, -1])(x, at(PROBS))
    assert zero[:, [1, 3]].eq(0).all() and torch.equal(zero[:, [0, 2]], x[:, [0, 2]])
    mean = ablate(heads=[2], by="mean")(x, at(PROBS))
    assert torch.allclose(mean[:, 2], x[:, 2].mean(1, keepdim=True).expand(2, 6, 5))
    assert torch.equal(mean[:, :2], x[:, :2])
    other = ablate(by="resample")(x, at(PROBS))
    assert torch.equal(other, x.flip(0))

    picture = torch.randn(2, 4, 6, 5)
    channel = ablate(channels=[0], by="mean")(picture, at(PICTURE))
    assert torch.allclose(channel[1, 0], picture[1, 0].mean().expand(6, 5))
    both = ablate(heads=[0], words=["cat"])(x, at(PROBS))
    assert both[0, 0, :, 1].eq(0).all() and torch.equal(both[0, 0, :, 2:], x[0, 0, :, 2:])
    assert both[1, 0, :, 2:4].eq(0).all() and torch.equal(both[1, 1:], x[1, 1:])


def test_what_cannot_be_ablated():
    x = torch.randn(1, 4, 6, 5)
    for edit, message in (
        (ablate(heads=[4]), "4 places along 'head'"),
        (ablate(by="resample"), "another picture in the batch"),
    ):
        with pytest.raises(ScratchError, match=message):
            edit(x, at(PROBS))
    with pytest.raises(ScratchError, match="no axis 'head'"):
        ablate(heads=[0])(x, at(PICTURE))
    with pytest.raises(ScratchError, match="say zero, mean or resample"):
        ablate(by="noise")


def test_scaling_a_word_from_zero_and_from_the_empty_prompt():
    x = torch.randn(2, 5, 3)
    scaled = scale_word("cat", 3.0)(x, at(CONTEXT))
    assert torch.equal(scaled[0, 1], 3 * x[0, 1]) and torch.equal(scaled[1, 2:4], 3 * x[1, 2:4])
    assert torch.equal(scaled[0, [0, 2, 3, 4]], x[0, [0, 2, 3, 4]])
    away = scale_word("cat", 0.0, origin="empty")(x, at(CONTEXT))
    assert away[0, 1].eq(7).all() and torch.equal(away[1, 0], x[1, 0])
    with pytest.raises(ScratchError, match="zero or empty"):
        scale_word("cat", 1.0, origin="mean")


def test_reweighting_attention():
    x = torch.rand(2, 4, 6, 5).softmax(-1)
    heavier = reweight({"cat": 2.0, "dog": 0.0})(x, at(PROBS))
    assert torch.equal(heavier[0, ..., 1], 2 * x[0, ..., 1]) and heavier[0, ..., 3].eq(0).all()
    assert torch.equal(heavier[1, ..., 2:4], 2 * x[1, ..., 2:4])
    again = reweight({"cat": 2.0}, renormalise=True)(x, at(PROBS))
    assert torch.allclose(again.sum(-1), torch.ones(2, 4, 6))


def test_swapping_words_of_equal_and_unequal_length():
    x = torch.randn(2, 5, 3)
    swapped = swap("cat", "dog")(x, at(CONTEXT))
    assert torch.equal(swapped[0], x[0, [0, 3, 2, 1, 4]])
    assert torch.equal(
        swapped[1], x[1, [0, 1, 4, 4, 2]]
    )  # stretched one way, thinned out the other
    columns = torch.randn(2, 4, 6, 5)
    assert torch.equal(swap("cat", "dog")(columns, at(PROBS))[0], columns[0, ..., [0, 3, 2, 1, 4]])


def test_a_patch_puts_back_what_was_recorded_and_leaves_the_rest():
    trace = Trace({Address("net.x", 1, "cond"): torch.ones(2, 3, dtype=torch.float16)})
    x = torch.zeros(2, 3)
    axes = ("batch", "channel")
    assert torch.equal(patch(trace)(x, at(axes, step=1)), torch.ones(2, 3))
    assert patch(trace)(x, at(axes, step=2)) is None
    mean = Trace({Address("net.x", None, "cond"): torch.ones(2, 3)})
    assert patch(mean)(x, at(axes, step=2)).eq(1).all()


def test_a_shift_adds_the_difference_of_two_runs():
    one, two = (Trace({Address("net.x", 1, "cond"): torch.full((2, 3), n)}) for n in (1.0, 5.0))
    x, axes = torch.zeros(2, 3), ("batch", "channel")
    assert shift(two, one, scale=0.5)(x, at(axes, step=1)).eq(2).all()
    assert shift(two)(x, at(axes, step=1)).eq(5).all()
    assert shift(two, one)(x, at(axes, step=0)) is None


def test_pictures_that_follow_the_first():
    x = torch.randn(3, 4, 6, 5)
    assert torch.equal(Follow()(x, at(PROBS)), x[:1].expand_as(x))
    matrix, own = torch.zeros(2, 5, 5), torch.zeros(2, 5)
    matrix[0] = torch.eye(5).flip(0)
    own[1] = 1.0
    followed = Follow(matrix, own)(x, at(PROBS))
    assert torch.equal(followed[0], x[0])
    assert torch.equal(followed[1], x[0].flip(-1))
    assert torch.equal(followed[2], x[2])


def test_words_without_prompts_are_refused():
    with pytest.raises(ScratchError, match="outside of a run with prompts"):
        scale_word("cat", 2.0)(torch.zeros(2, 5, 3), At("net.x", CONTEXT))


EDITS = [
    scale(2.5),
    add(torch.randn(3), scale=2.0),
    set_to(0.5),
    lerp(torch.randn(3), 0.25),
    ablate(heads=[1, 2], by="mean"),
    ablate(words=["cat", ("dog", 1)]),
    patch(Trace({Address("net.x", 1, "cond"): torch.randn(2, 3)})),
    shift(Trace({Address("net.x", 1, "cond"): torch.randn(2, 3)}), scale=0.5),
    Follow(),
    Follow(torch.eye(3)[None], torch.zeros(1, 3)),
    scale_word("cat", 1.5, nth=1, origin="empty"),
    reweight({"cat": 2.0, ("dog", 1): 0.5}, renormalise=True),
    swap("cat", "dog"),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
def test_every_edit_is_plain_data_and_comes_back(edit):
    tensors: dict[str, Tensor] = {}
    text = json.dumps(edit.to_plain(tensors))
    again = edit_from_plain(json.loads(text), tensors)
    assert type(again) is type(edit)
    more: dict[str, Tensor] = {}
    assert json.dumps(again.to_plain(more)) == text
    assert all(torch.equal(more[key], tensors[key]) for key in tensors)
    with pytest.raises(ScratchError, match="damaged"):
        edit_from_plain({"edit": type(edit).__name__ + "s"}, tensors)


def test_an_edit_with_missing_fields_is_refused():
    with pytest.raises(ScratchError, match="damaged or of another version"):
        edit_from_plain({"edit": "Scale"}, {})


def test_names_of_older_scripts_are_the_same_functions() -> None:
    import sd_scratch as sd

    assert sd.scale is sd.edits.scale and sd.reweight is sd.edits.reweight
    assert sd.words is sd.reductions.words and sd.heads is sd.reductions.heads
    with pytest.raises(AttributeError, match="no attribute 'enlarge'"):
        _ = sd.enlarge
