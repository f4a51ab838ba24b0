"""The review page in a real browser, over a real server and a small store: with keys alone, and for everybody's eyes.

Skips where there is no Chromium: Debian's package `chromium`, playwright's own, or NIGHTMINER_CHROMIUM with a path.
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
import pyarrow as pa
import pytest
import uvicorn
from PIL import Image

from serve.search_store import _Recent
from system.records import scene_id
from system.store.commits import append_rows
from system.store.detections import DETECTIONS, detections_schema, open_detections
from tests.serving import Server, make_server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")


def _chromium() -> Path | None:
    """The one that is named, Debian's, or the newest of those that `playwright install chromium` keeps."""
    named = os.environ.get("NIGHTMINER_CHROMIUM")
    if named:
        return Path(named) if Path(named).is_file() else None
    kept = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    found = sorted(kept.glob("chromium-*/chrome-linux*/chrome"), key=lambda path: int(path.parts[-3].split("-")[1]))
    return next((path for path in (Path("/usr/bin/chromium"), *reversed(found)) if path.is_file()), None)


CHROMIUM = _chromium()
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a Chromium: apt-get install chromium, or playwright install chromium"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    made = make_server(tmp_path_factory.mktemp("page"))
    open_detections(made.location)
    row = {"scene_id": scene_id("fleet", "log0", 1, 4), "detector_id": "d", "run_id": "r", "num_pictures": 1,
           "picture": [0], "label": ["person"], "score": [0.7]}  # fmt: skip
    append_rows(made.location, DETECTIONS, pa.Table.from_pylist([row], schema=detections_schema()))
    return made


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


def tab_to(page: sync_api.Page, selector: str, most: int = 120) -> None:
    """Press Tab until this has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{most} times Tab do not lead to {selector}")


def test_everything_goes_with_keys_alone(browser, url: str, token: str, tmp_path: Path):
    Image.fromarray(np.full((96, 128), 90, np.uint8)).save(tmp_path / "night.png")
    page, told = opened(browser)
    page.goto(url)
    page.wait_for_selector("#token")
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    page.keyboard.press("/")
    page.keyboard.type("pedestrian at night")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=“pedestrian at night”")
    assert "q=pedestrian+at+night" in page.url

    tab_to(page, '[data-tag="night"]')
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-tag="night"][data-state="with"]')
    page.wait_for_selector("text=12 scenes of 30")
    assert page.evaluate("document.activeElement.dataset.tag") == "night", "the filters are drawn anew, the focus stays"
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.text_content("#save") == "Save 1 chosen scene"
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-plot="birds-eye"] .worst-box')
    page.wait_for_selector("text=Why it ranks here")
    page.wait_for_function("() => document.querySelector('.shot img').naturalWidth > 0")
    here = page.url
    page.wait_for_selector("#later")
    there, back = ("]", "[") if page.is_enabled("#later") else ("[", "]")
    page.keyboard.press(there)
    page.wait_for_function("(before) => location.href !== before", arg=here)
    page.wait_for_function("() => !document.querySelector('main').ariaBusy && document.querySelector('#later')")
    page.keyboard.press(back)
    page.wait_for_function("(before) => location.href === before", arg=here)
    page.wait_for_function("() => !document.querySelector('main').ariaBusy")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=12 scenes of 30")
    page.wait_for_function(
        "(at) => document.activeElement.matches(`a.cover[href='${at}']`)", arg=f"?{here.split('?')[1]}"
    )
    page.keyboard.press("s")
    page.wait_for_selector("text=Most like the chosen scene")

    page.keyboard.press("e")
    page.wait_for_selector("dialog[open]")
    page.keyboard.type("wet nights")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('wet nights')")
    tab_to(page, "#format")
    page.keyboard.type("coco")
    assert page.input_value("#format") == "coco"
    with page.expect_download() as download:
        tab_to(page, "#export")
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "set.zip")
    assert any(name.endswith(".json") for name in zipfile.ZipFile(tmp_path / "set.zip").namelist())

    page.keyboard.press("2")
    page.wait_for_selector("#files")
    tab_to(page, "#files")
    # Enter opens the system's own dialog, which is not the page's.
    page.set_input_files("#files", str(tmp_path / "night.png"))
    page.wait_for_selector("canvas")
    page.keyboard.press("1")
    page.wait_for_selector(".results .card")
    assert told == []
    page.context.close()


def test_a_link_shows_what_was_shown_and_back_goes_back(browser, url: str, token: str):
    page, told = opened(browser)
    page.goto(f"{url}/?tag=rain&min_risk=0.1#token={token}")
    assert "token" not in page.url, "the token does not stay in the address"
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


def test_what_a_detector_found_is_chosen_and_stands_in_the_address(browser, url: str, token: str):
    page, told = opened(browser)
    page.goto(f"{url}/#token={token}")
    page.click('[data-detected="person"]')
    page.wait_for_selector("text=1 scene of 30")
    assert "detected=person%3A0.5" in page.url
    page.fill('[data-score="person"]', "0.8")
    page.wait_for_selector("text=No scene passes")
    assert "detected=person%3A0.8" in page.url
    page.click('[data-detected="person"][data-state="with"]')
    page.wait_for_selector("text=30 scenes of 30")
    assert "detected" not in page.url and told == []
    page.context.close()


def test_a_list_is_found_again_as_it_was_left(browser, url: str, token: str):
    page, told = opened(browser)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 30")
    last = page.get_attribute(".card:last-child", "data-scene")
    page.click(".card:last-child a.cover")
    page.wait_for_selector(".scene")
    searches = sum(path.endswith("/v1/search") for path in asked)
    page.click("#back")
    page.wait_for_selector(".results .card")
    assert page.locator(".card").count() == 30 and searches == sum(path.endswith("/v1/search") for path in asked)
    assert page.evaluate("document.activeElement.closest('li').dataset.scene") == last
    assert told == []
    page.context.close()


def test_the_last_result_that_can_be_had_says_so(browser, server: Server, url: str, token: str, monkeypatch):
    store = server.app.state.context.services.store
    monkeypatch.setattr(store, "_max_depth", 26)
    monkeypatch.setattr(store, "_rankings", _Recent(8))
    page, told = opened(browser)
    page.goto(f"{url}/#token={token}")
    page.click("#more")
    page.wait_for_selector("text=These are the first 26; narrow the search for others.")
    assert not page.locator("#more").count() and told == []
    page.context.close()


def test_a_late_answer_does_not_overwrite_the_next_page(browser, url: str, token: str):
    page, told = opened(browser)
    page.add_init_script("""const real = window.fetch; window.fetch = async (...asked) => {
        if (String(asked[0]).endsWith('/v1/sets')) await new Promise((done) => setTimeout(done, 500));
        return real(...asked); }""")
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    page.keyboard.press("3")
    page.keyboard.press("1")
    page.wait_for_selector(".card")
    page.wait_for_timeout(800)
    assert page.locator(".card").count() and not page.locator("h1:has-text('Saved sets')").count()
    assert told == []
    page.context.close()


def test_an_earlier_version_stays_in_sight_from_page_to_page(browser, url: str, token: str):
    page, told = opened(browser)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/?view=runs#token={token}")
    page.click("text=search as of this run")
    page.wait_for_selector(".card .cover img[src]")
    page.click(".card:has(img) a.cover")
    page.wait_for_selector(".like-it .card")
    assert "as_of=run-r1" in page.url
    parts = [path for path in asked if "/v1/scenes/" in path]
    assert len(parts) >= 6 and all("as_of=run-r1" in path for path in parts), parts
    assert any("/cover" in path for path in parts)
    page.click("#save")
    asked.clear()
    with page.expect_request(lambda request: request.method == "POST" and "/v1/sets" in request.url) as sent:
        page.fill("#set-name", "as it was")
        page.keyboard.press("Enter")
    assert sent.value.post_data_json["search"] == {"as_of": "run-r1"}
    page.wait_for_selector("h1:has-text('as it was')")
    page.wait_for_selector(".card .where")
    assert "as_of=run-r1" in page.locator(".card a.cover").get_attribute("href")
    parts = [path for path in asked if "/v1/scenes/" in path]
    assert parts and all("as_of=run-r1" in path for path in parts), parts
    assert told == []
    page.context.close()


def test_single_letters_can_be_switched_off_and_colours_chosen(browser, url: str, token: str):
    page, told = opened(browser, color_scheme="light")
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    page.keyboard.press("?")
    assert page.locator("dialog kbd").all_text_contents()[:3] == ["/", "j", "k"]
    page.uncheck("dialog input")
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.wait_for_timeout(200)
    assert "sets" not in page.url, "a letter that was said, not meant"
    page.click("#theme")
    page.reload()
    page.wait_for_selector(".card")
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (
        page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
        and ground == "rgb(16, 22, 27)"
    )
    assert told == []
    page.context.close()


def test_filters_stay_open_on_a_phone_and_nobody_saves_without_the_right(browser, url: str, server: Server):
    reader = server.token("read", name="rita")["Authorization"].removeprefix("Bearer ")
    page, _ = opened(browser, viewport={"width": 390, "height": 844})
    page.goto(f"{url}/#token={reader}")
    page.click("summary:has-text('Filters')")
    page.click('[data-tag="rain"]')
    page.wait_for_selector('[data-tag="rain"][data-state="with"]')
    assert page.is_visible('[data-tag="rain"]')
    page.wait_for_selector(".results:not([aria-busy])")
    page.click("#save")
    page.fill("#set-name", "mine")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .problem")
    problem = page.text_content("dialog .problem")
    assert "this needs export" in problem and "Request " in problem
    page.context.close()


def test_addresses_and_cameras_keep_their_order(browser, url: str):
    page, told = opened(browser)
    page.goto(url)
    search = "?view=scene&q=a+b&tag=night&not=rain&log=x%26y&detected=person%3A0.6%3A2&min_risk=0.2"
    again = page.evaluate(
        "async (given) => { const m = await import('/js/state.js'); return m.toSearch(m.read(given)); }", search
    )
    assert again == search
    cameras = [
        "CAM_IR_FRONT",
        "CAM_BACK",
        "CAM_FRONT_RIGHT",
        "ring_side_left",
        "CAM_FRONT",
        "CAM_BACK_LEFT",
        "CAM_FRONT_LEFT",
    ]
    ordered = page.evaluate("async (given) => (await import('/js/cameras.js')).inOrder(given)", cameras)
    assert ordered == [
        "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "ring_side_left", "CAM_BACK_LEFT", "CAM_BACK", "CAM_IR_FRONT",
    ]  # fmt: skip
    asked = {
        "query": {"text": "a"},
        "where": {"tags": ["night"], "from_ns": 1_700_000_000_000_000_000},
        "weights": {"hardness": 0.3},
    }
    state = page.evaluate("async (given) => (await import('/js/state.js')).stateOf(given)", asked)
    assert (state["q"], state["tag"], state["from"], state["hw"]) == ("a", ["night"], "2023-11-14T22:13:20", 0.3)
    scores = [1 / 3, 1e-9, 1]
    forms = page.evaluate(
        "async (given) => { const m = await import('/js/state.js'); return given.map(m.formOf); }",
        [{"label": "a", "min_score": score, "count": 2} for score in scores],
    )
    assert forms == ["a:0.333333:2", "a:0:2", "a:1:2"]
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
    assert page.locator(".found td").all_text_contents()[:2] == ["person", "0.90"]
    assert "broken.png" in page.text_content(".found .problem")
    page.wait_for_timeout(200)
    drawn = page.evaluate("() => document.querySelector('canvas').getContext('2d').getImageData(32, 50, 1, 1).data[0]")
    assert drawn > 150, "the left edge of the box is drawn over the picture"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.fill("#score", "0.95")
    page.wait_for_selector("text=0 boxes in 1 picture")
    assert not asked, "all boxes are there already"
    page.set_input_files("#files", [str(tmp_path / "broken.png")] * 8 + [str(tmp_path / "night.png")])
    page.wait_for_selector("canvas")
    assert page.locator(".found .problem").count() == 8, "a call that is refused does not end the others"
    refused = "the server responded with a status of 422"
    assert [line for line in told if refused not in line] == [], "a browser tells of each refused request itself"
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


@pytest.mark.parametrize("width", [1300, 390], ids=["desktop", "phone"])
def test_nothing_serious_stands_in_anybodys_way(browser, url: str, token: str, width: int):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page, told = opened(browser, viewport={"width": width, "height": 844})
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector(".card")
    scene = page.get_attribute(".card", "data-scene")

    def check(what: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            serious = [
                (found["id"], [node["html"] for node in found["nodes"]])
                for found in axe.run(page).response["violations"]
                if found["impact"] in ("serious", "critical")
            ]
            assert serious == [], f"{what} in {scheme}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{what} is wider than the screen"

    for view, shown in (
        ("?tag=rain", '[data-tag="rain"][data-state="with"]'), (f"?view=scene&id={scene}", ".like-it .card"),
        ("?view=sets", "h1"), ("?view=runs", "table"), ("?view=infrared", "#files"),
    ):  # fmt: skip
        page.goto(f"{url}/{view}")
        page.wait_for_selector(shown, state="attached")
        check(view)
    page.keyboard.press("?")
    check("the list of keys")
    assert told == []
    page.context.close()
