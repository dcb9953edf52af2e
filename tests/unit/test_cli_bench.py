"""The benchmark runs and compares like with like; how fast anything is, no test says."""

import importlib.util
import json
import weakref
from types import SimpleNamespace

import pytest
import torch

from sd_scratch.cli import main
from sd_scratch.cli.bench import networks, processes, subjects
from sd_scratch.cli.bench.rows import as_text, row

NETWORKS = ["U-Net, guided step", "text encoding", "VAE decoding"]
TINY = ["bench", "-m", "random-tiny", "--device=cpu", "--size=32", "--repeats=2", "--json"]


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    assert main([*TINY, *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["size"] == 32
    return {row["what"]: row for row in report["rows"]}


def test_both_sides_compute_the_same(capsys) -> None:
    rows = bench(capsys)
    assert list(rows) == NETWORKS
    for found in rows.values():
        assert found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
        assert float(str(found["note"]).split()[-1]) < 1e-4


def test_ours_alone(capsys) -> None:
    rows = bench(capsys, "--against", "nothing")
    assert {found["theirs"] for found in rows.values()} == {None}


def test_diffusers_may_be_missing(capsys, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*TINY[:-1], "--repeats=1"]) == 0
    streams = capsys.readouterr()
    assert "not installed: nothing to compare with" in streams.err
    assert "U-Net, guided step" in streams.out


def test_the_compiled_unet_is_timed_beside(capsys, monkeypatch) -> None:
    """Compiling itself takes minutes on a busy machine: an eager stand-in takes its place."""
    called = []
    monkeypatch.setattr(networks, "compile_unet", called.append)
    rows = bench(capsys, "--compile", "--no-networks", "--against=nothing")
    assert list(rows) == ["U-Net, compiled"]
    assert len(called) == 1
    assert "prepared in" in str(rows["U-Net, compiled"]["note"])


def test_a_whole_process_of_ours_is_measured(capsys) -> None:
    rows = bench(
        capsys, "--memory", "--no-networks", "--against=nothing", "--steps=1", "--threads=1"
    )
    assert list(rows) == ["peak memory"]
    assert 0.05 < float(str(rows["peak memory"]["ours"])) < 10


def test_start_up_is_measured_in_turn_and_no_model_is_held_meanwhile(capsys, monkeypatch) -> None:
    order, made = [], []
    make = subjects.random_components

    def components(*wanted: object) -> subjects.Components:
        found = make(*wanted)
        made.append(weakref.ref(found.unet))
        return found

    def measure(side: str, what: str, *rest: object) -> float:
        order.append(side)
        assert [ref() for ref in made] == [None]
        return 1.0 if side == "ours" else 4.0

    monkeypatch.setattr(subjects, "random_components", components)
    monkeypatch.setattr(processes, "measure", measure)
    found = bench(capsys, "--startup", "--no-networks")["start to first U-Net call"]
    assert order == ["ours", "theirs", "ours", "theirs"]
    assert found["ratio"] == 0.25


def test_a_measured_process_that_fails_says_why(tmp_path) -> None:
    args = SimpleNamespace(steps=1, threads=1, dtype=None)
    with pytest.raises(
        processes.ScratchError, match="measures ours startup failed: .*no such model"
    ):
        processes.measure("ours", "startup", tmp_path / "missing", args, 32)


def test_their_weights_are_in_their_own_order_of_memory() -> None:
    ours = subjects.random_components(subjects.TINY, torch.device("cpu"), torch.float32)
    theirs = subjects.load_theirs(ours, "diffusers")
    assert theirs is not None
    mine, other = ours.unet.state_dict(), theirs.unet.state_dict()
    convolution, linear = "conv_in.weight", "time_embedding.linear_1.weight"
    assert mine[convolution].is_contiguous(memory_format=torch.channels_last)
    assert other[convolution].is_contiguous()
    assert mine[linear].data_ptr() == other[linear].data_ptr()


def test_rows_are_medians() -> None:
    found = row("x", "s", [1.0, 9.0, 2.0], [4.0, 4.0, 40.0])
    assert (found.ours, found.theirs, found.ratio) == (2.0, 4.0, 0.5)
    assert row("x", "s", [1.0], []).ratio is None
    assert "0.50" in as_text({"size": 8}, [found])


def test_named_tensors_are_timed_off_and_while_recording(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sd_scratch.cli.bench.tensors.QUICK", 2)
    rows = bench(capsys, "--tensors", "--no-networks")
    assert list(rows) == [
        "scenes U-Net, taps off",
        "U-Net, recording attention",
        "recorded, a step",
        "peak memory, added",
        "diffusers, attention hooked",
    ]
    assert "the same bits" in str(rows["U-Net, recording attention"]["note"])
    assert rows["recorded, a step"]["ours"] == 0.037576  # 244 places, 77 tokens, 2 bytes


def test_the_copy_without_taps_has_none_left() -> None:
    import ast
    import inspect

    from sd_scratch.cli.bench.tensors import Untapped
    from sd_scratch.networks import layers, unet

    for module in (layers, unet):
        tree = Untapped().visit(ast.parse(inspect.getsource(module)))
        left = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        bodies = "".join(
            ast.unparse(f)
            for each in left
            for f in each.body
            if isinstance(f, ast.FunctionDef) and f.name in ("forward", "attend")
        )
        assert "probe" not in bodies and ".tap(" not in bodies
