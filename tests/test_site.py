"""The built site, walked in a browser: links, pictures, search, phones, the dark, no internet."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.built_site import build

# Its pages are looked at once, by one process.
pytestmark = pytest.mark.xdist_group("browser")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--disable-dev-shm-usage",
)  # fmt: skip
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}

SEEN = """
const to = e => e.href.baseVal ?? e.href;
return {
  links: [...document.querySelectorAll("a[href], area[href]")].map(to),
  anchors: [...document.querySelectorAll("[id], a[name]")].map(e => e.id || e.name),
  unseen: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  unnamed: [...document.images].filter(i => !i.alt.trim()).map(i => i.src),
  loaded: performance.getEntriesByType("resource").map(e => e.name),
  sideways: document.documentElement.scrollWidth - screen.width,
}
"""


@dataclass(frozen=True)
class Sight:
    """What the browser saw of a page, on a phone."""

    links: list[str]
    anchors: list[str]
    unseen: list[str]
    unnamed: list[str]
    loaded: list[str]
    sideways: int


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def built() -> Path:
    return build()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, for as long as it is open."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    with served(built) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        assert "CI" not in os.environ, "chromium and chromium-driver are not installed"
        pytest.skip(
            "needs Debian's chromium and chromium-driver, which `make test` installs for root"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def screen(browser: webdriver.Chrome, kind: dict[str, Any], scheme: str = "light") -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", kind)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def seen(browser: webdriver.Chrome, page: str) -> Sight:
    browser.get(page)
    return Sight(**browser.execute_script(SEEN))


@pytest.fixture(scope="module")
def sights(address: str, browser: webdriver.Chrome) -> dict[str, Sight]:
    """Every page that links lead to, from the first on, but for those of the source."""
    screen(browser, PHONE)
    found: dict[str, Sight] = {}
    waiting = [f"{address}{name}.html" for name in ("index", "genindex", "search")]
    while waiting:
        page = waiting.pop()
        if page in found:
            continue
        found[page] = seen(browser, page)
        targets = {urldefrag(link).url for link in found[page].links}
        waiting += [
            link
            for link in targets
            if link.startswith(address) and link.endswith(".html") and "/_modules/" not in link
        ]
    return found


@functools.cache
def ids_in(path: Path) -> list[str]:
    return re.findall(r' id="([^"]+)"', path.read_text())


def test_no_link_is_broken(sights: dict[str, Sight], address: str, built: Path) -> None:
    for page, sight in sights.items():
        for link in sight.links:
            url, anchor = urldefrag(link)
            if not link.startswith(address):
                assert link.startswith("https://"), (page, link)
                continue
            path = built / unquote(url.removeprefix(address))
            assert path.is_file(), (page, link)
            if anchor:
                anchors = sights[url].anchors if url in sights else ids_in(path)
                assert unquote(anchor) in anchors, (page, link)


def test_every_page_can_be_reached(sights: dict[str, Sight], address: str, built: Path) -> None:
    pages = {f"{address}{path.relative_to(built)}" for path in built.rglob("*.html")}
    assert {page for page in pages if "/_modules/" not in page} == set(sights)


def test_every_picture_is_seen_and_described(sights: dict[str, Sight]) -> None:
    assert any(url.endswith(".svg") for sight in sights.values() for url in sight.loaded)
    for page, sight in sights.items():
        assert sight.unseen == [], page
        assert sight.unnamed == [], page


def test_nothing_comes_from_elsewhere(sights: dict[str, Sight], address: str) -> None:
    for page, sight in sights.items():
        assert [url for url in sight.loaded if not url.startswith((address, "data:"))] == [], page


def test_a_phone_does_not_scroll_sideways(sights: dict[str, Sight]) -> None:
    assert {page: sight.sideways for page, sight in sights.items() if sight.sideways > 0} == {}


def test_the_console_is_silent(sights: dict[str, Sight], browser: webdriver.Chrome) -> None:
    assert len(sights) > 20
    assert browser.get_log("browser") == []


BROKEN = """<!doctype html><title>Broken</title><meta name=viewport content="width=device-width">
<link rel=icon href="data:,"><a href="#nowhere" id=here>a</a><img src=missing.png>
<div style="width: 391px">wide</div><script>nothing.at.all</script>"""


def test_the_browser_notices_what_is_wrong(tmp_path: Path, browser: webdriver.Chrome) -> None:
    (tmp_path / "index.html").write_text(BROKEN)
    screen(browser, PHONE)
    browser.get_log("browser")
    with served(tmp_path) as address:
        sight = seen(browser, f"{address}index.html")
    assert (sight.links, sight.anchors) == ([f"{address}index.html#nowhere"], ["here"])
    assert sight.unseen == sight.unnamed == [f"{address}missing.png"]
    assert sight.sideways > 0
    assert len(browser.get_log("browser")) == 2


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("Param", "api/fields.html#declarative_dist.Param"),
        ("learning rate", "which_transform.html"),
        ("prior", "tutorial.html"),
        ("weibull", "howto/survival.html"),
    ],
)
def test_search_finds_where_a_thing_is_taught(
    words: str, page: str, address: str, browser: webdriver.Chrome
) -> None:
    """As the first of the results."""
    screen(browser, DESKTOP)
    browser.get(f"{address}search.html?q={words}")
    results = WebDriverWait(browser, 10).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, "#search-results li a")
    )
    assert results[0].get_attribute("href").startswith(f"{address}{page}")


def test_it_can_be_read_in_the_dark(address: str, browser: webdriver.Chrome) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        screen(browser, DESKTOP, scheme)
        browser.get(f"{address}errors.html")
        for selector in ("article p", "article h1", ".highlight-python pre", ".output pre"):
            text, ground = (
                brightness(browser.execute_script(COLOUR, selector, what))
                for what in ("color", "background-color")
            )
            assert (text > ground) == is_dark
            assert contrast(text, ground) > 4.5, (scheme, selector)


COLOUR = """
let element = document.querySelector(arguments[0]), colour;
do {
  colour = getComputedStyle(element)[arguments[1]];
  element = element.parentElement;
} while (colour.endsWith(", 0)") && element);
return colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
"""


def brightness(colour: list[float]) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines 2.1, from 0 to 1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (x / 255 for x in colour)
    ]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
