"""TensorBoard as its user sees it: in a headless Chromium."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from selenium.common import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

SWITCHES = (
    "headless", "window-size=1600,2000", "disable-gpu", "no-sandbox",  # root's Chromium has no sandbox
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-quic", "disable-sync",
)  # fmt: skip
READ = """
const rows = card => [...card.querySelectorAll("tb-data-table-content-row")];
const curves = card => [...card.querySelectorAll(".series-view :is(path, circle)")].map(curve => curve.style.stroke);
const color = row => row.querySelector(".row-circle span").style.backgroundColor;
return [...document.querySelectorAll("scalar-card:has(.tag)")].map(card => [
  card.querySelector(".tag").innerText,
  rows(card).filter(row => curves(card).includes(color(row))).map(row => row.children[1].innerText),
]);
"""


def chromium(profile: Path) -> Chrome:
    """Start a browser with a profile of its own; it ends with its `with`."""
    options = ChromeOptions()
    for switch in (*SWITCHES, f"user-data-dir={profile}"):
        options.add_argument(f"--{switch}")
    # Where there is no driver, Selenium fetches one, and a browser.
    return Chrome(options, ChromeService(shutil.which("chromedriver")))


def cards(page: Chrome) -> dict[str, set[str]]:
    """The tags of the cards on TensorBoard's page, and the runs that each card has a curve and a value of."""
    return {tag: set(runs) for tag, runs in page.execute_script(READ)}


def look(page: Chrome, address: str, wanted: dict[str, set[str]], seconds: float) -> dict[str, set[str]]:
    """Open TensorBoard again and again until it shows the wanted cards, or for so long; returns what it shows."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(WebDriverException):  # no tunnel yet, or not all of the data
            page.get(f"{address}?tagFilter=.&forceSVG=true")  # no folded groups; curves that READ finds
            WebDriverWait(page, 20).until(lambda page: cards(page) == wanted)
            break
        time.sleep(1)
    return cards(page)
