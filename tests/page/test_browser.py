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
from safetensors.torch import save_file

import sd_scratch as sd
from sd_scratch.checkpoints.load import empty_components
from sd_scratch.cli.page import find_loras
from sd_scratch.config import PRESETS
from sd_scratch.page.answers import listing
from sd_scratch.page.engine import Engine
from sd_scratch.page.session import NoEngine
from sd_scratch.pipeline.mask_use import MaskUse
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


def captions(page: Any) -> list[str]:
    """What the maps of the open tensor are called."""
    texts = page.locator("#view .tiles figcaption").all_inner_texts()
    return [text.splitlines()[0] for text in texts]


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
    assert captions(page)[:4] == ["a", "large", "red", "circle"]
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
    assert np.array_equal(shown(page), plain)  # what is there is the last picture
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
    house = page.locator("#house")  # all of it finds room
    assert house.evaluate("(house) => house.scrollWidth - house.clientWidth") <= 2
    shot = house.screenshot()
    Image.open(io.BytesIO(shot)).convert("RGB").save(folder / "sd15.webp", quality=70, method=6)


def test_a_lost_server_is_said_and_found_again(browser: Any, engine: Engine) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    with served(engine) as address:
        page.goto(link(address, {"prompt": PROMPT, "steps": 1}))
        before = made(page)
    page.locator("#trouble", has_text="connection").wait_for()
    page.fill("#prompt", "a small blue star")
    with served(engine, address):
        page.locator("#trouble").wait_for(state="hidden")
        page.click("#make")  # what was typed is kept
        made(page, before)
    page.goto("about:blank")
    context.close()


def test_a_model_that_cannot_be_had_is_said_on_the_page(browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    with served(NoEngine("half.safetensors - a checkpoint without its text encoder")) as address:
        page.goto(address)
        page.locator("#trouble", has_text="without its text encoder").wait_for()
        page.fill("#prompt", "a small blue star")
        page.click("#make")
        page.locator("#trouble", has_text="start the page with another").wait_for()
    context.close()


def test_a_picture_is_painted_on(page: Any, engine: Engine, tmp_path: Path) -> None:
    """Chosen, painted on with the mouse and by keys, made as `generate` makes it, shared."""
    before = made(page)
    own = np.full((64, 64, 3), 240, np.uint8)
    own[40:56, 8:24] = (20, 60, 230)
    Image.fromarray(own).save(tmp_path / "own.png")
    page.set_input_files("#init", tmp_path / "own.png")
    page.locator("#init-note", has_text="own.png, 64 × 64").wait_for()
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.up()
    page.locator("#mask").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowUp")
    page.click("#make")
    made(page, before)
    assert np.array_equal(shown(page)[40:, :24], own[40:, :24])
    assert not np.array_equal(shown(page), own)
    with page.expect_download() as download:
        page.click("#mask-save")
    mask = np.asarray(Image.open(download.value.path()).convert("L"))
    assert 0.02 < (mask > 127).mean() < 0.3 and set(np.unique(mask)) == {0, 255}
    recipe = Recipe(PROMPT, seed=7, steps=4, strength=1.0, mask=MaskUse())
    given = {"init_image": Image.fromarray(own), "mask": Image.fromarray(mask)}
    (picture,) = engine.model.run(recipe, **given)
    assert np.array_equal(shown(page), np.asarray(picture.to_pil()[0]))
    assert "under a mask" in page.locator("#caption").inner_text()
    page.click("#copy")
    page.locator("#status", has_text="needs own.png and the mask").wait_for()
    shared = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(shared)
    page.locator("#trouble", has_text="own.png").wait_for()
    page.set_input_files("#init", tmp_path / "own.png")
    page.locator("#init-note", has_text="has a mask too").wait_for()
    page.set_input_files("#mask-file", download.value.path())
    page.click("#make")
    made(page, before)
    assert np.array_equal(shown(page), np.asarray(picture.to_pil()[0]))
    page.set_input_files("#init", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.locator("#trouble", has_text="a.png cannot be read").wait_for()
    page.click("#init-remove")
    page.click("#make")
    assert made(page) == before
    page.get_by_text("Negative prompt, sampler, size").click()
    page.fill("#width", "96")
    page.click("#make")
    made(page, before)
    box = page.locator("#picture").bounding_box()
    assert abs(box["width"] / box["height"] - 1.5) < 0.01  # as it is, and not as a square


def test_loras_are_chosen_by_name(browser: Any, engine: Engine, tmp_path: Path) -> None:
    path = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    size = engine.model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.shape
    rng = torch.Generator().manual_seed(1)
    save_file({f"{path}.diff": torch.randn(size, generator=rng)}, tmp_path / "bold-lcm.safetensors")
    dressed = Engine(sd.load(), Recipe("", model="scenes"), find_loras(tmp_path))
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    with served(dressed) as address:
        page.goto(link(address, {"prompt": PROMPT, "seed": 7, "steps": 4}))
        before = made(page)
        page.select_option("#lora", "bold-lcm")
        with_it = made(page, before)
        assert page.input_value("#steps") == "4" and page.input_value("#sampler") == "lcm"
        model = engine.model.with_lora(tmp_path / "bold-lcm.safetensors")
        settings = {"steps": 4, "sampler": "lcm", "schedule": "lcm", "guidance": 1.0}
        (picture,) = model.run(Recipe(PROMPT, seed=7, **settings))
        assert np.array_equal(shown(page), np.asarray(picture.to_pil()[0]))
        page.click("#copy")
        shared = page.evaluate("location.href")
        page.goto("about:blank")
        page.goto(shared)
        assert made(page) == with_it
        page.get_by_role("button", name="Remove bold-lcm").click()
        made(page, with_it)
        assert "bold" not in page.locator("#caption").inner_text()
    context.close()
    dressed.stop()


def test_between_prompts_words_rest_and_the_way_back_is_there(page: Any) -> None:
    before = made(page)
    page.locator("#words input").nth(2).focus()
    page.keyboard.press("Home")  # "red" times -1
    edited = made(page, before)
    page.locator("#plane .handle").wait_for()
    page.locator("#pad").focus()
    page.keyboard.press("ArrowLeft")
    made(page, edited)
    assert page.locator("#trouble").is_hidden()
    assert "rests between prompts" in page.locator("#edits li").inner_text()
    assert "back at the prompt" in page.locator("#words-rest").inner_text()
    assert page.locator("#words input").first.is_disabled()
    page.click("#words-back")
    assert made(page) == edited
    assert page.locator("#words-rest").is_hidden()


def test_what_was_asked_for_is_counted(page: Any) -> None:
    made(page)
    assert page.locator("#asked li").count() == 3
    assert "large red circle" in page.locator("#asked").inner_text()
    page.click("#count")
    page.locator("#often", has_text="of 8 pictures").wait_for()
    assert "of 8" in page.locator("#asked li").first.inner_text()


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
        page.locator("#plane .handle").wait_for(state="attached")
        page.evaluate("document.querySelector('#inside details').open = true")
        page.locator('g.box[aria-label*="down block 0, transformer 0"]').click()
        page.locator("#view .tiles canvas").first.wait_for()
        page.wait_for_timeout(300)
        page.locator(place).evaluate("node => node.scrollIntoView({block: 'start'})")
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(folder / f"{name}.webp", quality=70, method=6)
        assert picture.width == width and np.asarray(picture).std() > 10
        if width < 400:  # folded, the whole page is but a few screens high
            page.reload()
            made(page)
            assert page.evaluate("document.documentElement.scrollHeight") < 3 * height
        context.close()


def test_painting_as_it_looks(page: Any, tmp_path: Path) -> None:
    folder = PICTURES if os.environ.get("SD_SCRATCH_PICTURES") else tmp_path
    before = made(page)
    page.click("#init-current")
    page.locator("#easel").wait_for()
    page.locator("#mask-save").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    page.locator("#brush-size").evaluate("brush => { brush.value = 40; }")
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.75 * box["height"])
    page.mouse.down()
    for x, y in ((0.75, 0.7), (0.78, 0.78), (0.6, 0.78)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.up()
    page.fill("#prompt", "a large red circle above a small yellow triangle on a white background")
    page.fill("#seed", "5")
    page.fill("#steps", "15")
    page.click("#make")
    made(page, before)
    begin, see = page.locator("#begin").bounding_box(), page.locator("#see").bounding_box()
    page.set_viewport_size({"width": 1280, "height": 1700})
    top = page.locator("#say").bounding_box()["y"]
    clip = {"x": 0, "y": top, "width": see["x"] + see["width"] + 16, "height": 1250}
    assert begin["x"] < see["x"]
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.save(folder / "paint.webp", quality=70, method=6)
    assert np.asarray(picture).std() > 10


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
    page.click("#init-current")
    page.locator("#easel").wait_for()
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    bad = [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found]
    assert not bad
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()
