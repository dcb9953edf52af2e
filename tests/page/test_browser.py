"""The page in a real browser: what a person does, and what then is there."""

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sd_scratch as sd
from sd_scratch.checkpoints.load import empty_components
from sd_scratch.config import PRESETS
from sd_scratch.page.answers import listing
from sd_scratch.page.engine import Engine
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.page.browser import chromium, served

PROMPT = "a large red circle on a white background"
SHOWN = "a medium yellow triangle to the left of a small blue ring on a white background"
PICTURES = Path(__file__).resolve().parents[2] / "docs/images/page"
VIEWS = [  # name, width, height, scheme, what stands at the top
    ("light", 1280, 800, "light", "header"),
    ("dark", 1280, 1120, "dark", "#inside"),
    ("narrow", 360, 740, "light", "#see"),
]
AXE = Path(__file__).resolve().parents[2] / "scripts/page/node_modules/axe-core/axe.min.js"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(sd.load(), Recipe("", model="scenes"))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with served(engine) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page with its first picture made, of few steps; what it complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.goto(link(address, {"prompt": PROMPT, "seed": 7, "steps": 4}))
    made(page)
    yield page
    context.close()
    assert not wrong


def link(address: str, recipe: dict, **more: Any) -> str:
    text = json.dumps({"recipe": recipe, **more}).encode()
    return f"{address}&wish={base64.urlsafe_b64encode(text).decode().rstrip('=')}"


def made(page: Any, before: str = "") -> str:
    """Wait for a picture other than the one before; its digest."""
    page.locator("#save:not([disabled])").wait_for()
    for _ in range(600):
        now = page.evaluate("window.page.runs.size ? '' : window.page.done?.sha256 ?? ''")
        if now and now != before:
            return str(now)
        page.wait_for_timeout(100)
    raise AssertionError(f"no new picture: {page.locator('#trouble').inner_text()}")


def shown(page: Any) -> np.ndarray:
    """The pixels of the large canvas, `[H, W, 3]`."""
    url = page.evaluate("document.getElementById('picture').toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    )


def generated(engine: Engine, prompt: str = PROMPT, **values: Any) -> np.ndarray:
    (picture,) = engine.model.run(Recipe(prompt, **{"seed": 7, "steps": 4, **values}))
    return np.asarray(picture.to_pil()[0])


def test_a_typed_prompt_becomes_the_picture_of_the_command_line(page: Any, engine: Engine) -> None:
    before = made(page)
    page.fill("#prompt", "a small blue star on a yellow background")
    page.fill("#steps", "5")
    page.click("#make")
    made(page, before)
    expected = generated(engine, "a small blue star on a yellow background", steps=5)
    assert np.array_equal(shown(page), expected)
    assert page.locator("#tokens li").count() == 8
    assert "The oracle reads" in page.locator("#caption").inner_text()
    page.locator("#scrub").focus()
    page.keyboard.press("Home")  # the first step's x0
    assert not np.array_equal(shown(page), expected)
    assert "1 of 5" in page.locator("#at").inner_text()


def test_a_box_is_opened_by_keys_and_shows_what_a_word_looks_at(page: Any) -> None:
    box = page.locator('g.box[aria-label*="down block 0, transformer 0"]')
    page.locator("g.box[tabindex='0']").focus()
    for _ in range(30):
        if box.evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("#view .tiles canvas").first.wait_for()
    assert page.locator("#tensor-name").inner_text().endswith("attn2.probs")
    captions = page.locator("#view .tiles figcaption").all_inner_texts()
    assert captions[:4] == ["a", "large", "red", "circle"]
    page.locator("#view .tiles canvas").nth(2).hover()
    assert page.locator("#readout").inner_text().startswith("red at row")
    assert 'tap("probs"' in page.locator("#source").inner_text()
    assert "circle" in page.locator(".masks figcaption").first.inner_text()
    page.select_option("#branch", "uncond")
    page.locator("#view .tiles figcaption", has_text="start").wait_for()
    page.get_by_role("button", name="attn1.probs").click()
    page.locator("#view canvas").first.wait_for()


def test_edits_change_the_picture_and_undo_brings_it_back(page: Any, engine: Engine) -> None:
    before, plain = made(page), shown(page)
    page.locator("#words input").nth(2).focus()
    page.keyboard.press("Home")  # "red" times -1
    changed = made(page, before)
    assert "red" in page.locator("#edits li").inner_text()
    with engine.model.edit("unet.*.attn2.probs", sd.edits.reweight({"red": -1.0})):
        assert np.array_equal(shown(page), generated(engine))
    page.get_by_role("button", name="Undo").click()
    made(page, changed)
    assert np.array_equal(shown(page), plain)
    page.get_by_text("Add an edit").click()
    page.fill("#edit-tensors", "unet.nothing")
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator("#trouble", has_text="no tensor is named").wait_for()
    page.get_by_role("button", name="Undo").click()
    made(page)


def test_the_joystick_moves_the_picture(page: Any) -> None:
    before = made(page)
    page.locator("#plane .handle").wait_for()
    pad = page.locator("#pad").bounding_box()
    page.mouse.move(pad["x"] + 20, pad["y"] + 20)
    page.mouse.down()
    for i in range(20):
        page.mouse.move(pad["x"] + 20 + 8 * i, pad["y"] + 20 + 5 * i)
    page.mouse.up()
    moved = made(page, before)
    assert page.evaluate("window.page.runs.size") == 0  # nothing waits
    newest = page.evaluate("[window.page.done.id, window.page.newest]")
    assert newest[0] == newest[1]
    page.locator("#pad").focus()
    page.keyboard.press("ArrowLeft")
    made(page, moved)
    page.click("#leave")
    assert made(page) == before


def test_a_link_makes_the_same_picture_and_the_file_holds_the_recipe(
    page: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = {"tensors": "unet.h", "edit": "scale", "factor": 1.2}
    page.goto("about:blank")
    page.goto(link(address, {"prompt": PROMPT, "seed": 9, "steps": 3}, edits=[edit]))
    first = made(page)
    page.click("#copy")
    page.locator("#status", has_text="link").wait_for()
    shared = page.evaluate("location.href")
    assert "wish=" in shared and "token=" not in shared
    page.goto("about:blank")
    page.goto(shared)
    assert made(page) == first
    with page.expect_download() as download:
        page.click("#save")
    picture = Image.open(download.value.path())
    recipe = recipe_from_json(picture.text["sd_scratch"], "png")
    assert (recipe.seed, recipe.steps, recipe.prompt) == (9, 3, PROMPT)
    assert np.array_equal(np.asarray(picture), shown(page))
    monkeypatch.chdir(tmp_path)
    exec(page.locator("#snippet").text_content(), {})  # the script that the page offers
    assert np.array_equal(np.asarray(Image.open("picture.png")), shown(page))


def test_two_pictures_side_by_side(page: Any) -> None:
    before = made(page)
    page.click("#pin")
    assert page.locator("#compare").is_visible()
    assert "0.0 %" in page.locator("#difference-text").inner_text()
    page.click("#dice")
    made(page, before)
    assert "0.0 %" not in page.locator("#difference-text").inner_text()


def test_what_goes_wrong_is_a_sentence_and_the_page_goes_on(
    page: Any, engine: Engine, address: str
) -> None:
    before = made(page)
    page.evaluate("document.getElementById('prompt').maxLength = 1e6")
    page.fill("#prompt", "word " * 10_000)
    page.click("#make")
    page.locator("#trouble", has_text="shorten").wait_for()
    page.fill("#prompt", "<img src=x onerror=alert(1)> a red circle")
    page.click("#make")
    made(page, before)
    assert page.locator("img").count() == 0
    page.evaluate("location.hash = '#wish=bm9uc2Vuc2U'")  # no wish
    page.locator("#trouble", has_text="nothing that can be read").wait_for()
    page.evaluate(f"location.hash = '{link('', {'prompt': 3}).lstrip('&')}'")
    page.locator("#trouble", has_text="prompt").wait_for()


def test_a_second_tab_takes_turns_with_the_first(page: Any, address: str) -> None:
    before = made(page)
    other = page.context.new_page()
    other.goto(link(address, {"prompt": PROMPT, "seed": 7, "steps": 4}))
    page.fill("#steps", "60")
    page.click("#make")
    page.locator("#status", has_text="step").wait_for()
    other.click("#make")
    other.locator("#status", has_text="waiting: another page").wait_for()
    made(page, before)
    assert made(other) == before
    other.close()


def test_stable_diffusion_has_a_drawing_of_its_own(page: Any, tmp_path: Path) -> None:
    """From the list of its tensors, which needs no weights."""
    rows = listing(StableDiffusion(empty_components(PRESETS["sd15"], torch.float32, "sd15")))
    names = page.evaluate(
        """async (rows) => {
          const { House } = await import("./house.js");
          return new House(document.getElementById("house"), rows, () => {}).boxes.map((box) => box.name);
        }""",
        rows,
    )
    unet = [name for name in names if name.startswith("unet.")]
    assert sum(".resnets." in name for name in unet) == 22
    assert sum(".attentions." in name for name in unet) == 16
    assert sum(name.startswith("text.encoder.layers") for name in names) == 12
    folder = PICTURES if os.environ.get("SD_SCRATCH_PICTURES") else tmp_path
    page.set_viewport_size({"width": 4000, "height": 900})
    house = page.locator("#house")  # all of it, where the page would scroll
    house.evaluate(
        "(house) => { house.closest('section').style.width = `${house.scrollWidth + 100}px`; }"
    )
    assert house.evaluate("(house) => house.scrollWidth - house.clientWidth") <= 2
    shot = house.screenshot()
    Image.open(io.BytesIO(shot)).convert("RGB").save(folder / "sd15.webp", quality=70, method=6)


def test_a_lost_server_is_said_and_found_again(browser: Any, engine: Engine) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    with served(engine) as address:
        page.goto(link(address, {"prompt": PROMPT, "steps": 1}))
        made(page)
    page.locator("#trouble", has_text="connection").wait_for()
    page.goto("about:blank")
    context.close()


def test_a_page_without_the_token_says_what_to_do(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address.partition("#")[0])
    page.locator("#trouble", has_text="Open the address").wait_for()
    context.close()


def test_the_page_as_it_looks(browser: Any, address: str, tmp_path: Path) -> None:
    """The pictures of docs/page.md, which are written there if SD_SCRATCH_PICTURES says so."""
    folder = PICTURES if os.environ.get("SD_SCRATCH_PICTURES") else tmp_path
    for name, width, height, scheme, place in VIEWS:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(link(address, {"prompt": SHOWN, "seed": 7, "steps": 10}))
        made(page)
        page.locator("#plane .handle").wait_for()
        page.locator('g.box[aria-label*="down block 0, transformer 0"]').click()
        page.locator("#view .tiles canvas").first.wait_for()
        page.wait_for_timeout(300)
        page.locator(place).evaluate("node => node.scrollIntoView({block: 'start'})")
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(folder / f"{name}.webp", quality=70, method=6)
        assert picture.width == width and np.asarray(picture).std() > 10
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_inaccessible(browser: Any, address: str, scheme: str) -> None:
    """By axe-core, with everything open, on a narrow screen."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed - npm ci --prefix scripts/page")
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(link(address, {"prompt": PROMPT, "steps": 2}))
    made(page)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.locator("g.box.attn").last.click()
    page.locator("#view canvas").first.wait_for()
    page.click("#pin")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    bad = [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found]
    assert not bad
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()
