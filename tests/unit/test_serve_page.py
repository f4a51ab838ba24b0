"""The review page in a real browser, over a real server and a small store: with keys alone, and for everybody's eyes.

Skips where there is no Chromium: Debian's package `chromium`, or NIGHTMINER_CHROMIUM with its path.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from tests.serving import Server, make_server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = os.environ.get("NIGHTMINER_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).is_file(), reason=f"needs a Chromium at {CHROMIUM}: apt-get install chromium"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return make_server(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    """The application behind a real HTTP server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(server.app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 30
    while not running.started:
        assert time.monotonic() < deadline_s, "uvicorn did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def token(server: Server) -> str:
    return server.token(name="ana")["Authorization"].removeprefix("Bearer ")


def opened(browser: sync_api.Browser, **options: object) -> tuple[sync_api.Page, list[str]]:
    """A new page, and what it complains of."""
    page = browser.new_context(**{"viewport": {"width": 1300, "height": 900}} | options).new_page()
    page.set_default_timeout(30_000)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    return page, told


def test_a_scene_is_found_opened_saved_and_taken_away_with_keys_alone(browser, url: str, token: str, tmp_path: Path):
    page, told = opened(browser)
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    assert "token" not in page.url, "the token does not stay in the address"
    page.keyboard.press("/")
    page.keyboard.type("pedestrian at night")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=“pedestrian at night”")
    assert "q=pedestrian+at+night" in page.url

    page.focus('[data-tag="night"]')
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-tag="night"][data-state="with"]')
    page.wait_for_selector("text=12 scenes of 30")
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.text_content("#save") == "Save 1 chosen scene"
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-plot="birds-eye"] .worst-box')
    page.wait_for_selector("text=Why it ranks here")
    page.wait_for_function("document.querySelector('.shot img').naturalWidth > 0")
    here = page.url
    page.wait_for_selector("#later")
    there, back = ("]", "[") if page.is_enabled("#later") else ("[", "]")
    page.keyboard.press(there)
    page.wait_for_function("(before) => location.href !== before", arg=here)
    page.wait_for_selector("#later")
    page.keyboard.press(back)
    page.wait_for_function("(before) => location.href === before", arg=here)
    page.wait_for_selector("#similar:enabled")
    page.keyboard.press("s")
    page.wait_for_selector("text=Most like the chosen scene")

    page.keyboard.press("e")
    page.wait_for_selector("dialog[open]")
    page.keyboard.type("wet nights")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('wet nights')")
    page.select_option("#format", "coco")
    with page.expect_download() as download:
        page.focus("#export")
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "set.zip")
    assert any(name.endswith(".json") for name in zipfile.ZipFile(tmp_path / "set.zip").namelist())
    assert told == []
    page.context.close()


def test_a_link_shows_what_was_shown_and_back_goes_back(browser, url: str, token: str):
    page, told = opened(browser)
    page.goto(f"{url}/?tag=rain&min_risk=0.1#token={token}")
    page.wait_for_selector('[data-tag="rain"][data-state="with"]')
    first = page.text_content(".told")
    assert page.input_value('[data-key="min_risk"]') == "0.1"
    page.click(".card a.cover")
    page.wait_for_selector("text=Why it ranks here")
    page.go_back()
    page.wait_for_selector(".card")
    assert page.text_content(".told") == first and "tag=rain" in page.url
    assert told == []
    page.context.close()


def test_infrared_pictures_show_their_boxes_and_a_broken_one_its_reason(browser, url: str, token: str, tmp_path: Path):
    Image.fromarray(np.full((96, 128), 90, np.uint8)).save(tmp_path / "night.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "night.png").read_bytes()[:60])
    page, told = opened(browser)
    page.goto(f"{url}/?view=infrared#token={token}")
    page.wait_for_selector("#files")
    page.set_input_files("#files", [str(tmp_path / "night.png"), str(tmp_path / "broken.png")])
    page.wait_for_selector("canvas")
    assert "person 0.90" in page.text_content(".found") and "broken.png" in page.text_content(".found .problem")
    page.wait_for_timeout(200)
    drawn = page.evaluate("() => document.querySelector('canvas').getContext('2d').getImageData(32, 50, 1, 1).data[0]")
    assert drawn > 150, "the left edge of the box is drawn over the picture"
    assert told == []
    page.context.close()


def test_a_wrong_token_and_an_empty_answer_are_told(browser, url: str, token: str):
    page, _ = opened(browser)
    page.goto(url)
    page.fill("#token", "nm_wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    page.goto(f"{url}/?min_risk=0.99")
    page.wait_for_selector(".empty")
    assert "No scene passes these filters" in page.text_content(".empty")
    page.goto(f"{url}/?view=scene&id={'0' * 32}")
    page.wait_for_selector(".problem")
    assert "Request " in page.text_content(".problem")
    page.context.close()


@pytest.mark.parametrize(
    ("width", "scheme"), [(1300, "light"), (1300, "dark"), (390, "light")], ids=["light", "dark", "phone"]
)
def test_nothing_serious_stands_in_anybodys_way(browser, url: str, token: str, width: int, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page, told = opened(browser, viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    scene = page.get_attribute(".card", "data-scene")
    for view, shown in (
        ("", ".card"), (f"?view=scene&id={scene}", "text=Scenes like it"), ("?view=sets", "h1"),
        ("?view=runs", "table"), ("?view=infrared", "#files"),
    ):  # fmt: skip
        page.goto(f"{url}/{view}")
        page.wait_for_selector(shown)
        serious = [
            (found["id"], [node["html"] for node in found["nodes"]])
            for found in axe.run(page).response["violations"]
            if found["impact"] in ("serious", "critical")
        ]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the screen"
    assert told == []
    page.context.close()
