"""The exercises: their values where they are known, and that each makes a table and a figure."""

from xml.etree import ElementTree

import pytest

from sd_scratch.cli import main
from sd_scratch.errors import UsageError
from sd_scratch.teaching import EXERCISES, ddim_steps, get_exercise, predictors, unets
from sd_scratch.teaching.overview import overview
from tests.tiny import tiny_model


def test_schedules():
    table = get_exercise("schedules").run()
    assert table.column("t") == [0, 100, 250, 500, 750, 900, 999]
    assert table.column("linear")[3] == pytest.approx(0.0778, abs=1e-4)
    assert "259 (linear), 354 (scaled linear), 496 (cosine)" in table.findings[0]


def test_predictors():
    table = predictors.evaluate(tiny_model())
    assert table.column("truth") == [0.0] * 10
    assert table.column("zero") == pytest.approx([1.0] * 10, abs=0.4)
    assert table.column("random") == pytest.approx([2.0] * 10, abs=0.8)


def test_unet_counts():
    table = get_exercise("unet").run()
    blocks = sum(row[4] for row in table.rows if row[0] == "sd15")
    rest = 320 * 4 * 9 + 320 + 320 * 1280 + 1280 + 1280 * 1280 + 1280 + 640 + 4 * 320 * 9 + 4
    assert blocks + rest == 859_520_964
    assert [unets.toy_parameters(widths) for widths in unets.TOY.values()] == [2_360_454, 2_444_486]


def test_latents():
    table = get_exercise("latents").run()
    assert set(table.column("times fewer")) == {48.0}
    saved = table.column("MiB saved")
    assert saved[1] / saved[0] == 4 and saved[3] / saved[0] == 16


def test_guidance():
    table = get_exercise("guidance").run()
    assert table.column("cosine") == sorted(table.column("cosine"))
    assert table.column("length") == sorted(table.column("length"))
    assert table.column("amplification")[1] == pytest.approx(1.0)


def test_ddim():
    assert all(ddim_steps.with_exact_noise(steps) < 1e-20 for steps in (1, 5, 50, 1000))
    table = ddim_steps.estimate(tiny_model())
    errors = table.column("model")
    assert errors[0] > errors[-1]


def test_a_name_that_is_nearly_one():
    with pytest.raises(UsageError, match="did you mean guidance"):
        get_exercise("guidence")


@pytest.mark.parametrize("name", ["schedules", "latents", "guidance", "unet"])
def test_the_command(name, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    assert main(["teach", name, "-o", str(figure)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(EXERCISES[name].question) and out.rstrip().endswith(str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["teach", name, "-o", str(figure)]) == 2


def test_the_overview_has_a_box_for_every_block_of_the_listing():
    model = tiny_model()
    drawing = overview(model.tensors())
    root = ElementTree.fromstring(drawing)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    unet = model.unet.config
    levels = len(unet.block_out_channels)
    for level in range(levels):
        assert f"down_blocks.{level}" in texts and f"up_blocks.{level}" in texts
    assert {"mid_block", "context", "latent", "picture", "decoder.up_blocks.0"} <= set(texts)
    held = f"{unet.layers_per_block + 1} residual, {unet.layers_per_block + 1} transformer"
    assert texts[texts.index(f"up_blocks.{levels - 1}") + 1] == held
    assert f"h: {unet.block_out_channels[-1]} x" in drawing


def test_an_overview_needs_all_of_a_model():
    with pytest.raises(UsageError, match="text.context"):
        overview(tiny_model().tensors("unet.*"))
