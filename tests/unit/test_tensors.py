"""Naming, recording and editing the tensors of a bare network."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sd_scratch.config import TINY
from sd_scratch.errors import ScratchError
from sd_scratch.networks.attention import Attention
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.tensors import At, Editor, Recorder, Run, Tapped, Taps, record
from sd_scratch.tensors.record import show_bytes
from sd_scratch.tensors.reductions import area, heads, mean_over_calls, words
from tests.lively import liven

BRANCHES = ("uncond", "cond")
CONFIG = replace(
    TINY.unet,
    block_out_channels=(16, 24),
    cross_attention=(True, False),
    cross_attention_dim=16,
    num_attention_heads=2,
)
MID = "unet.mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 12, generator=generator)
    return x, torch.tensor([500.0, 500.0]), torch.randn(2, 7, 16, generator=generator)


@pytest.fixture
def unet() -> UNet:
    return liven(UNet(CONFIG))


@pytest.fixture
def taps(unet, inputs) -> Taps:
    return Taps.of("unet", unet, *(x[:1] for x in inputs))


def probes(network: torch.nn.Module) -> list[Tapped]:
    return [m for m in network.modules() if "probe" in vars(m)]


# Names ----------------------------------------------------------------------------------------


def test_a_name_is_a_module_and_a_leaf(unet, taps):
    table = taps.tensors()
    modules = dict(unet.named_modules())
    for name, info in table.items():
        assert name == f"{info.path}.{info.leaf}"
        assert info.path.removeprefix("unet").lstrip(".") in modules
        assert len(info.axes) == len(info.shape) > 0
    assert len(table) > 150


def test_listing_takes_no_memory_and_leaves_the_network_alone(unet, taps):
    before = {k: v.data_ptr() for k, v in unet.state_dict().items()}
    taps.tensors()
    assert {k: v.data_ptr() for k, v in unet.state_dict().items()} == before
    assert not probes(unet)


def test_positions_know_their_feature_map(taps):
    table = taps.tensors("*.attn2.probs")
    assert table[f"{MID}.attn2.probs"].axes == ("batch", "head", "query", "token")
    assert {info.hw for info in table.values()} == {(8, 12), (4, 6)}
    for info in table.values():
        assert info.shape[2] == info.hw[0] * info.hw[1]


def test_a_glob_without_a_match_is_refused_with_the_nearest_names(taps):
    with pytest.raises(
        ScratchError, match=r"no tensor is named 'unet\.\*\.atn2\.probs'.*attn2\.probs"
    ):
        taps.tensors("unet.h", "unet.*.atn2.probs")
    with pytest.raises(ScratchError, match="no tensor"):
        Recorder(taps, "unet.*.attn2.pattern")
    with pytest.raises(ScratchError, match="no tensor"):
        Editor(taps, "unet.*.attn2.pattern", lambda x, at: x)


# Recording ------------------------------------------------------------------------------------


def test_recording_everything_changes_no_bit(unet, taps, inputs):
    off = unet(*inputs)
    with Recorder(taps, "*") as trace:
        on = unet(*inputs)
    assert torch.equal(on, off)
    assert trace.names == list(taps.tensors())
    assert torch.equal(trace["unet.pred"].tensor, off)
    assert not probes(unet)


def test_the_branch_is_an_axis_and_the_step_another(unet, taps, inputs):
    with Recorder(taps, "unet.h", f"{MID}.attn2.probs") as trace:
        for step in range(3):
            with taps.calling(step, t=900.0 - step, sigma=2.0, branches=BRANCHES):
                unet(*inputs)
    h = trace["unet.h"]
    assert h.axes == ("call", "branch", "batch", "channel", "height", "width")
    assert h.tensor.shape == (3, 2, 1, 24, 4, 6)
    assert (h.calls, h.t, h.branches) == ((0, 1, 2), (900.0, 899.0, 898.0), BRANCHES)
    assert torch.equal(trace["unet.h@1:cond"].tensor, h.tensor[1, 1])
    assert torch.equal(trace["unet.h:uncond"].tensor, h.tensor[:, 0])
    probs = trace[f"{MID}.attn2.probs"]
    assert probs.maps().shape == (3, 2, 1, 2, 4, 6, 7)
    with pytest.raises(ScratchError, match=r"unet\.h@7"):
        trace["unet.h@7"]
    with pytest.raises(ScratchError, match=r"'unet\.x' was not recorded"):
        trace["unet.x"]


def test_only_the_steps_and_the_branch_that_were_asked_for(unet, taps, inputs):
    with Recorder(taps, "unet.h", calls=slice(0, None, 2), branch="cond") as trace:
        for step in range(5):
            with taps.calling(step, branches=BRANCHES):
                unet(*inputs)
    assert trace["unet.h"].calls == (0, 2, 4)
    assert trace["unet.h"].tensor.shape == (3, 1, 24, 4, 6)


def test_several_forward_passes_outside_a_run_follow_each_other(unet, taps, inputs):
    with Recorder(taps, "unet.h") as trace:
        first, second = unet(*inputs), unet(*(x[:1] for x in inputs))
    assert first is not second
    assert trace["unet.h"].tensor.shape[0] == 3


def test_probabilities_beside_the_fused_kernel_are_those_of_the_explicit_path(
    unet, taps, inputs, monkeypatch
):
    with Recorder(taps, "*.scores", "*.probs", "*.result") as whole:
        unet(*inputs)
    monkeypatch.setattr(record, "CHUNK", 1000)  # a few rows at a time
    with Recorder(taps, "*.scores", "*.probs", "*.result") as chunked:
        unet(*inputs)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.explicit = True
    with Recorder(taps, "*.scores", "*.probs", "*.result") as explicit:
        unet(*inputs)
    for name in whole.names:
        tolerance = 1e-4 if name.endswith("scores") else 1e-5
        for other in (chunked, explicit):
            torch.testing.assert_close(
                other[name].tensor, whole[name].tensor, rtol=1e-5, atol=tolerance
            )


def test_results_of_the_heads_add_up_to_the_output(unet, taps, inputs):
    with Recorder(taps, f"{MID}.attn2.result", f"{MID}.attn2.out") as trace:
        unet(*inputs)
    bias = unet.get_submodule(MID.removeprefix("unet.") + ".attn2").output.bias
    total = trace[f"{MID}.attn2.result"].tensor.sum(1) + bias
    assert (total - trace[f"{MID}.attn2.out"].tensor).abs().max() < 1e-5


def test_reductions(unet, taps, inputs):
    name = f"{MID}.attn1.probs"

    def recorded(*reduce):
        with Recorder(taps, name, reduce=list(reduce)) as trace:
            unet(*inputs)
        return trace[name]

    full = recorded().tensor
    assert torch.equal(recorded(heads()).tensor, full.mean(1))
    assert recorded(heads()).axes == ("batch", "query", "key")
    assert torch.equal(recorded(heads(1, -2)).tensor, full[:, [1, 0]])
    box = recorded(area(0.0, 0.5, 1.0, 1.0))  # of 4 x 6 cells the right half
    assert torch.allclose(box.tensor, full.unflatten(2, (4, 6))[:, :, :, 3:].mean((2, 3)))
    assert torch.equal(recorded(lambda x: x.amax(-1)).tensor, full.amax(-1))
    with (
        pytest.raises(ScratchError, match="no axis 'token'"),
        Recorder(taps, name, reduce=words("cat"), branch="cond"),
        taps.running(lambda: Run(prompts={"cond": [object()]})),
    ):
        pass
    with pytest.raises(ScratchError, match="2 places along 'head'"):
        recorded(heads(4))


def test_the_mean_over_calls_does_not_depend_on_their_number(unet, taps, inputs):
    x, t, context = inputs
    for count in (1, 4):
        with (
            Recorder(taps, "unet.h", reduce=mean_over_calls()) as mean,
            Recorder(taps, "unet.h") as single,
        ):
            for step in range(count):
                with taps.calling(step, branches=BRANCHES):
                    unet(x * (1 + step), t, context)
        expected = single["unet.h"].tensor.mean(0)
        assert (mean["unet.h"].tensor - expected).abs().max() < 1e-5
        assert mean["unet.h"].calls == tuple(range(count))
        assert mean["unet.h"].axes == single["unet.h"].axes[1:]
    assert mean.bytes == single.bytes / 4


def test_copies_have_the_dtype_that_was_asked_for_and_are_copies(unet, taps, inputs):
    with Recorder(taps, "unet.x", dtype=torch.float16) as trace:
        unet(*inputs)
    assert trace["unet.x"].tensor.dtype == torch.float16
    x = inputs[0].clone()
    with Recorder(taps, "unet.x") as trace:
        unet(x, *inputs[1:])
    x.zero_()
    assert torch.equal(trace["unet.x"].tensor, inputs[0])


def test_a_recording_over_its_budget_is_refused_before_the_run(unet, taps):
    run = Run(calls=50, batch=2, branches=BRANCHES)
    size = sum(info.bytes for info in taps.tensors("*.probs").values()) * 50 * 2 * 2
    with Recorder(taps, "*.probs", budget=size), taps.running(lambda: run):
        pass
    with (
        pytest.raises(ScratchError, match=f"takes {show_bytes(size)}, more than the budget"),
        Recorder(taps, "*.probs", budget=size - 1),
        taps.running(lambda: run),
    ):
        raise AssertionError("the run must not begin")
    # Reductions, precision, calls and branches all count.
    small = {"reduce": heads(), "dtype": torch.float16, "calls": [3], "branch": "cond"}
    with (
        Recorder(taps, "*.probs", budget=size // (2 * 2 * 50 * 2), **small),
        taps.running(lambda: run),
    ):
        pass
    with pytest.raises(ScratchError, match="no budget"):
        Recorder(taps, "*.probs", budget="much")


def test_calls_that_a_run_does_not_have_are_refused(taps):
    with (
        pytest.raises(ScratchError, match="no call 60"),
        Recorder(taps, "unet.h", calls=60),
        taps.running(lambda: Run(calls=50, branches=BRANCHES)),
    ):
        pass
    with Recorder(taps, "unet.h", calls=-1) as trace, taps.running(lambda: Run(calls=50)):
        pass
    assert trace.names == []


def test_stop_after_ends_the_forward_pass(unet, taps, inputs):
    reached = False
    with Recorder(taps, "unet.*", stop_after=f"{MID}.attn2.q") as trace:
        unet(*inputs)
        reached = True
    assert not reached
    assert trace.names[-1] == f"{MID}.attn2.q"
    assert not probes(unet)


def test_gradients_on_request(unet, taps, inputs):
    x = inputs[0].clone().requires_grad_()
    name = f"{MID}.attn2.probs"
    with Recorder(taps, "unet.x", "unet.h", name, gradients=True) as trace:
        loss = unet(x, *inputs[1:]).square().mean()
    loss.backward()
    assert torch.equal(trace.gradient("unet.x").tensor, x.grad)
    assert trace.gradient(name).tensor.shape == trace[name].tensor.shape
    assert trace.gradient(name).tensor.abs().max() > 0
    with Recorder(taps, "unet.h") as trace:
        unet(*inputs)
    with pytest.raises(ScratchError, match="gradients=True"):
        trace.gradient("unet.h")


# Editing --------------------------------------------------------------------------------------


def test_every_tensor_can_be_edited_and_the_edit_is_felt(unet, taps, inputs):
    off = unet(*inputs)
    for name, info in taps.tensors().items():
        with Editor(
            taps, name, lambda x, at: x + 0.5 if at.name.endswith("probs") else 1.5 * x + 0.5
        ):
            on = unet(*inputs)
        # The softmax does not feel the same shift of all scores, but their growth.
        assert info.editable and not torch.equal(on, off), name


@pytest.mark.parametrize("leaf", ["scores", "probs", "result"])
def test_an_edit_that_changes_nothing_pins_both_attention_paths_together(unet, taps, inputs, leaf):
    off = unet(*inputs)
    seen = []
    with Editor(taps, f"unet.*.{leaf}", lambda x, at: seen.append(at.name) or x):
        on = unet(*inputs)
    assert len(seen) == len(taps.tensors(f"unet.*.{leaf}"))
    assert (on - off).abs().max() < 1e-5 * off.abs().max()


def test_an_edit_sees_one_branch_at_a_time(unet, taps, inputs):
    seen: list[At] = []
    off = unet(*inputs)
    with (
        Editor(
            taps,
            "unet.h",
            lambda x, at: seen.append(at) or (x + 1 if at.branch == "cond" else None),
        ),
        taps.calling(4, t=321.0, sigma=1.5, branches=BRANCHES),
    ):
        on = unet(*inputs)
    assert [(at.name, at.call, at.t, at.sigma, at.branch, at.hw) for at in seen] == [
        ("unet.h", 4, 321.0, 1.5, branch, (4, 6)) for branch in BRANCHES
    ]
    assert torch.equal(on[0], off[0])
    assert not torch.equal(on[1], off[1])


def test_edits_act_in_the_order_in_which_they_were_entered(unet, taps, inputs):
    with (
        Recorder(taps, "unet.h", when="before") as before,
        Editor(taps, "unet.h", lambda x, at: x + 1),
        Recorder(taps, "unet.h") as after,
        Editor(taps, "unet.h", lambda x, at: x * 2),
    ):
        unet(*inputs)
    expected = (before["unet.h"].tensor + 1) * 2
    assert torch.equal(after["unet.h"].tensor, expected)


def test_edits_at_some_steps_only(unet, taps, inputs):
    off = unet(*inputs)
    with Editor(taps, "unet.h", lambda x, at: x + 1, calls=[1, 3], branch="uncond"):
        for step in range(4):
            with taps.calling(step, branches=BRANCHES):
                on = unet(*inputs)
            assert torch.equal(on[0], off[0]) is (step in (0, 2))
            assert torch.equal(on[1], off[1])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, at: x[..., :-1],
        lambda x, at: x.double(),
        lambda x, at: x.to("meta"),
        lambda x, at: 0.0,
    ],
)
def test_an_edit_of_the_wrong_kind_is_refused(unet, taps, inputs, wrong):
    with (
        pytest.raises(ScratchError, match=r"the edit of unet\.h returned"),
        Editor(taps, "unet.h", wrong),
    ):
        unet(*inputs)
    assert not probes(unet)


def test_contexts_come_off_after_an_exception(unet, taps, inputs):
    off = unet(*inputs)

    def broken(x: Tensor, at: At) -> Tensor:
        raise RuntimeError("mine")

    with (
        pytest.raises(RuntimeError, match="mine"),
        Recorder(taps, "unet.*") as trace,
        Editor(taps, "unet.h", broken),
        taps.calling(0, branches=BRANCHES),
    ):
        unet(*inputs)
    assert not probes(unet)
    assert trace.names == []  # nothing of the call that failed
    assert torch.equal(unet(*inputs), off)


def test_a_context_cannot_be_entered_twice(taps):
    recorder, editor = Recorder(taps, "unet.h"), Editor(taps, "unet.h", lambda x, at: x)
    for context in (recorder, editor):
        with context, pytest.raises(ScratchError, match="active already"), context:
            pass


def test_a_recording_holds_one_run(taps):
    run = Run(calls=2, facts={"seed": 1})
    with Recorder(taps, "unet.h"):
        with taps.running(lambda: run):
            pass
        with pytest.raises(ScratchError, match="holds a run already"), taps.running(lambda: run):
            pass


def test_a_tensor_that_leads_nowhere_cannot_be_edited():
    text = liven(TextEncoder(TINY.text))
    ids = torch.tensor([[49406, 320, 2368, 49407, 49407]])
    taps = Taps.of("text", text, ids)
    with Recorder(taps, "text.pooled", "text.final_layer_norm") as trace:
        text(ids)
    assert torch.equal(trace["text.pooled"].tensor, trace["text.final_layer_norm"].tensor[:, 3])
    with pytest.raises(ScratchError, match="only be seen"):
        Editor(taps, "text.pooled", lambda x, at: x)


# Compiling and differentiating ----------------------------------------------------------------


class Counter:
    """A backend for `torch.compile` that runs the graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def small() -> tuple[Attention, Taps, Tensor]:
    torch.compiler.reset()
    attention, x = liven(Attention(32, 4)), torch.randn(2, 9, 32)
    return attention, Taps.of("net", attention, x), x


@torch.no_grad()
def test_compiled_one_graph_off_one_more_while_recording_none_per_step(small):
    attention, taps, x = small
    counter = Counter()
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    off = compiled(x)
    assert counter.graphs == 1
    for _ in range(2):  # a new recorder of the same names needs no new graph
        with Recorder(
            taps, "*.probs", "*.z", reduce=heads(), branch="cond", calls=range(0, 50, 2)
        ) as t:
            for step in range(50):
                with taps.calling(step, branches=BRANCHES):
                    on = compiled(x)
        assert counter.graphs == 2
        assert t["net.probs"].tensor.shape == (25, 1, 9, 9)
        assert torch.equal(on, off)
    assert torch.equal(compiled(x), off)
    assert counter.graphs == 2


@torch.no_grad()
def test_compiled_edits_are_felt_and_go_again(small):
    attention, taps, x = small
    counter = Counter()
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    off = compiled(x)
    edit = Editor(taps, "net.probs", lambda p, at: p.roll(1, -1))
    with edit:
        expected = attention(x)
    with edit:
        for step in range(5):
            with taps.calling(step):
                assert torch.equal(compiled(x), expected)
    assert counter.graphs == 2
    assert torch.equal(compiled(x), off)
    assert counter.graphs == 2


def test_compiled_stop_after_raises_nothing_inside_the_graph(small):
    attention, taps, x = small
    compiled = torch.compile(attention, backend=Counter(), fullgraph=True)
    with Recorder(taps, "net.z", stop_after="net.z") as trace:
        compiled(x)
    assert trace["net.z"].tensor.shape == (2, 4, 9, 8)


def test_forward_mode_derivatives_are_exact_and_need_no_switch(unet, inputs):
    x, t, context = inputs
    direction = torch.randn_like(context)
    _, tangent = torch.func.jvp(lambda c: unet(x, t, c), (context,), (direction,))
    context = context.clone().requires_grad_()
    eps = unet(x, t, context)
    weights = torch.randn_like(eps)
    (gradient,) = torch.autograd.grad((eps * weights).sum(), context)
    assert torch.allclose((tangent * weights).sum(), (gradient * direction).sum(), rtol=1e-3)
