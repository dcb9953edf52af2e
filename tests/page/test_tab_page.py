"""The page with its engine in the tab, in a real browser: scripts/build-page, and what comes of it."""

import base64
import io
import runpy
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sd_scratch as sd
from sd_scratch.errors import UsageError
from sd_scratch.mapping.movement import make_plane
from sd_scratch.page.server import make_static
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.page.browser import chromium, find_browser
from tests.page.test_browser import captions, link, made, shown

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "scripts/page/node_modules/onnxruntime-web/dist"
PROMPT = "a large red circle on a white background"
LOOKED_AT = "unet.down_blocks.0.*.attn2.probs"
CLOSE = 2  # levels of 255, in 99 % of the pixels

pytestmark = [
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="no runtime - npm ci --prefix scripts/page"),
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tab") / "site"
    runpy.run_path(str(ROOT / "scripts/build_page.py"))["build"](folder, "scenes", [LOOKED_AT])
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Any]:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    application = make_static(folder, frozenset({host}))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(90_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(link(f"http://{host}/#", {"prompt": PROMPT, "seed": 7, "steps": 4}))
        made(page)
        yield page
        assert not wrong
    server.should_exit = True
    thread.join(timeout=10)


def near(page: Any, expected: np.ndarray) -> bool:
    apart = np.abs(shown(page).astype(int) - expected.astype(int)).max(axis=-1)
    return bool((apart <= CLOSE).mean() >= 0.99)


def test_the_picture_is_that_of_the_command_line(page: Any) -> None:
    model = sd.load("scenes", device="cpu")
    recipe = Recipe(PROMPT, seed=7, steps=4)
    (picture,) = model.run(recipe)
    assert near(page, np.asarray(picture.to_pil()[0]))
    before = made(page)
    page.locator("#words input").nth(2).focus()
    page.keyboard.press("Home")  # "red" times -1
    changed = made(page, before)
    with model.edit("unet.*.attn2.probs", sd.edits.reweight({"red": -1.0})):
        (picture,) = model.run(recipe)
    assert near(page, np.asarray(picture.to_pil()[0]))
    page.get_by_role("button", name="Undo").click()
    assert made(page, changed) == before
    page.select_option("#what-of", "vector")
    page.locator("#words input").nth(2).focus()
    page.keyboard.press("Home")
    changed = made(page, before)
    with model.edit("text.context", sd.edits.scale_word("red", -1.0)):
        (picture,) = model.run(recipe)
    assert near(page, np.asarray(picture.to_pil()[0]))
    page.get_by_role("button", name="Undo").click()
    assert made(page, changed) == before

    page.locator("#plane .handle").wait_for()
    page.locator("#pad").focus()
    page.keyboard.press("ArrowUp")
    made(page, before)
    place = page.evaluate("window.page.done.wish.place")
    plane = make_plane([model.prompt(text) for text in place["prompts"]])
    prompt = plane.at(plane.places.new_tensor(place["at"]))
    image = model.generate(prompt, model.noise(7), steps=4)
    assert near(page, np.asarray(image.to_pil()[0]))
    page.click("#leave")
    made(page)


def test_a_box_shows_what_a_word_is_looked_at_for(page: Any) -> None:
    page.locator("g.box.attn").first.click()
    page.locator("#view .tiles canvas").first.wait_for()
    assert captions(page)[:3] == ["a", "large", "red"]


def test_what_the_tab_cannot_do_is_said(page: Any) -> None:
    page.get_by_text("Add an edit").click()
    page.fill("#edit-tensors", "unet.h")
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator("#trouble", has_text="need sd-scratch page").wait_for()
    page.get_by_role("button", name="Undo").click()
    made(page)
    page.fill("#prompt", "a (red:1.3) circle")
    page.click("#make")
    page.locator("#trouble", has_text="plain words").wait_for()
    page.fill("#prompt", PROMPT)
    assert "samplers ddim, euler, dpmpp_2m" in page.locator("#lacks").inner_text()


def test_any_host_will_do_under_any_path(page: Any, folder: Path) -> None:
    """A server that knows nothing of the page, and has it in a folder among others."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(quiet, directory=str(folder.parent))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = page.context.new_page()
        other.set_default_timeout(90_000)
        where = f"http://127.0.0.1:{server.server_port}/{folder.name}/#"
        other.goto(link(where, {"prompt": PROMPT, "seed": 7, "steps": 1}))
        assert made(other)
        other.close()
        server.shutdown()


def test_a_saved_picture_holds_its_recipe(page: Any) -> None:
    with page.expect_download() as download:
        page.click("#save")
    data = Path(download.value.path()).read_bytes()
    picture = Image.open(io.BytesIO(data))
    recipe = recipe_from_json(picture.text["sd_scratch"], "png")
    assert (recipe.prompt, recipe.seed, recipe.steps) == (PROMPT, 7, 4)
    url = page.evaluate("document.getElementById('picture').toDataURL()")
    canvas = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(canvas.convert("RGB")))


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="build-page"):
        make_static(tmp_path, frozenset())
