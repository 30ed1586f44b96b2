"""The page of sweeps as its user sees it: in a headless Chromium, with a real PostgreSQL, S3 by moto, and a worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, TypeVar

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto import mock_aws
from moto.core.models import botocore_stubber
from postgres import PROGRAMS, Server
from selenium.common import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flotilla.job.errors import BadInput
from flotilla.sweep import control, page_state
from flotilla.sweep.page_state import Fleet, State
from flotilla.sweep.settings import SweepConfig

T = TypeVar("T")
MOST_BYTES = 1_000_000  # of a file, here
PATIENCE_SECS = 240.0  # on a busy machine
SWITCHES = (
    "headless", "window-size=1280,1600", "disable-gpu", "no-sandbox",  # root's Chromium has no sandbox
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-quic", "disable-sync",
)  # fmt: skip
SWEEP = """
data: flowers.csv
label: kind
trials: 60
vary: {nodes: {from: 1, to: 60}}
"""
ROWS = [f"{kind * 2 + n % 7 / 7:.3f},{kind - n % 5 / 9:.3f},{n},{'abc'[kind]}" for n in range(60) for kind in range(3)]
FLOWERS = "\n".join(["long,wide,day,kind", *ROWS]) + "\n"


class S3(BaseHTTPRequestHandler):
    """moto's S3 for other processes; its own server wants Flask."""

    protocol_version = "HTTP/1.1"
    _one = threading.Lock()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        given = HTTPHeaders()
        for name, value in self.headers.items():
            if name.lower() != "host":
                given[name] = value
        with self._one:
            request = AWSPreparedRequest(self.command, f"https://s3.amazonaws.com{self.path}", given, body, False)
            status, headers, content = botocore_stubber.process_request(request)
        content = content.encode() if isinstance(content, str) else content
        headers = {name.lower(): str(value) for name, value in headers.items()}
        length = headers.pop("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_response(status)
        for name, value in {**headers, "content-length": length}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *words: object) -> None:
        pass


class Service(NamedTuple):
    """The page's program, and what it works with."""

    folder: Path
    programs: Path  # a folder of the path, before all others
    port: int
    process: subprocess.Popen[bytes]
    config: SweepConfig  # of a sweep by the playbook


def until(true: Callable[[], T], what: str = "") -> T:
    """Wait until something is true; return it."""
    end = time.monotonic() + PATIENCE_SECS
    while True:
        with contextlib.suppress(WebDriverException, OSError, StopIteration):
            if found := true():
                return found
        assert time.monotonic() < end, what or true
        time.sleep(0.2)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The page beside PostgreSQL, S3, and a thread that starts lead and worker as systemd does."""
    work = tmp_path_factory.mktemp("page")
    for name in ("postgres", "programs", "flotilla", "uploads"):
        (work / name).mkdir()
    folder, patch, ended = work / "flotilla", pytest.MonkeyPatch(), threading.Event()
    server = Server(work / "postgres")
    server.make(control.NAME)
    s3 = ThreadingHTTPServer(("127.0.0.1", 0), S3)
    threading.Thread(target=s3.serve_forever, daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key, value in {
        "PATH": f"{work}/programs:{PROGRAMS}:{os.environ['PATH']}", "PGHOST": "127.0.0.1", "PGPORT": str(server.port),
        "PGUSER": "flotilla", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.server_port}", "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing", "PYTHONPATH": str(Path(__file__).parents[1]),
    }.items():  # fmt: skip
        patch.setenv(key, value)
    patch.delenv("AWS_PROFILE", raising=False)

    def run(*command: str) -> subprocess.Popen[bytes]:
        env = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}  # else NiceGUI tests
        return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, env=env)

    def systemd() -> None:
        lead = worker = None
        while not ended.wait(0.2):
            if not worker or worker.poll() is not None:
                worker = run("-m", "flotilla.trials", "--folder", str(folder))
            if (folder / "sweep.json").exists() and (not lead or lead.poll() is not None):
                lead = run("-m", "flotilla.sweeper", "run", "--config", str(folder / "sweep.json"))
        for one in (lead, worker):
            if one:
                one.kill()
                one.wait()

    small = f"from flotilla import sweep_page as p; p.page_state.MOST_BYTES = {MOST_BYTES}; p.main()"
    process = run(
        "-c", small, "--folder", str(folder), "--target", "s3://out/sweeps/", "--shared", str(work / "shared"),
        "--slots", "4", "--hourly", "1.2", "--port", str(port),
    )  # fmt: skip
    thread = threading.Thread(target=systemd)
    thread.start()
    here = folder / "sweeps/0123456789ab"
    here.mkdir(parents=True)
    (here / "flowers.csv").write_text(FLOWERS)
    (here / "by-hand.yml").write_text(SWEEP)
    config = SweepConfig(
        sweep=str(here / "by-hand.yml"), table=str(here / control.TABLE), target="s3://out/by-hand/",
        shared=str(work / "shared/0123456789ab"), database="sweep_0123456789ab",
        progress=str(folder / "progress/sweep.json"), done_file=str(folder / "sweep.done"),
    )  # fmt: skip
    with mock_aws():
        boto3.client("s3", region_name="us-east-1", endpoint_url=None).create_bucket(Bucket="out")
        try:
            yield Service(folder, work / "programs", port, process, config)
        finally:
            ended.set()
            thread.join()
            process.kill()
            process.wait()
            s3.shutdown()
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()
            patch.undo()


class Page:
    """The browser's window."""

    def __init__(self, chrome: Chrome, service: Service, work: Path) -> None:
        self.chrome, self._work = chrome, work
        self.address = f"http://127.0.0.1:{service.port}/"

    def open(self) -> None:
        def opened() -> bool:
            self.chrome.get(self.address)
            return "Flotilla" in self.text

        until(opened)

    @property
    def text(self) -> str:
        return self.chrome.find_element(By.TAG_NAME, "body").text

    def shows(self, *words: str) -> None:
        for one in words:
            until(lambda one=one: one in self.text, f"{one}: {self.text}")  # type: ignore[misc]

    def press(self, name: str) -> None:
        def pressed() -> bool:
            buttons = self.chrome.find_elements(By.CSS_SELECTOR, "button, .q-tab")
            next(one for one in buttons if one.is_displayed() and one.text.endswith(name) and one.is_enabled()).click()
            return True

        until(pressed, name)

    def drop(self, name: str, content: bytes) -> None:
        """Give the page a file, as a drop does."""
        (self._work / name).write_bytes(content)
        field = until(lambda: self.chrome.find_element(By.CSS_SELECTOR, "input[type=file]"))
        field.send_keys(str(self._work / name))

    def write(self, label: str, value: str) -> None:
        field = self.chrome.find_element(By.CSS_SELECTOR, f"input[aria-label='{label}']")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def cells(self, table: str) -> list[list[str]]:
        rows = self.chrome.find_elements(By.CSS_SELECTOR, f".{table} tbody tr")
        return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]


@pytest.fixture(scope="module")
def window(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = ChromeOptions()
    for switch in (*SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    with Chrome(options, ChromeService(shutil.which("chromedriver"))) as chrome:
        yield Page(chrome, service, tmp_path_factory.mktemp("files"))


@pytest.fixture
def page(window: Page) -> Page:
    window.open()
    if "Another table" in window.text:
        window.press("Another table")
    return window


def asked(service: Service, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def test_wrong_files_are_refused_in_a_sentence(page: Page, service: Service) -> None:
    page.drop("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(100))
    page.shows("photo.png is no table but a picture.", "Which table?")
    page.drop("empty.csv", b"")
    page.shows("empty.csv is empty: it has to hold a table.")
    page.drop("rows.csv", b"5.1,3.5,a\n" * 30)
    page.shows("rows.csv has values (5.1, 3.5, a) where the columns' names belong")
    page.drop("large.csv", bytes(MOST_BYTES + 1))
    page.shows("large.csv is larger than 0.001 GB: put it into S3, and give its address here.")
    page.drop("words.csv", b"yes,b\nno,b\nyes,a\n" * 10)
    page.shows("Is the first line a row?", "What varies")
    assert not [one.name for one in (service.folder / "uploads").iterdir() if one.name != "words.csv"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large.csv", "is larger than"), (".hidden.csv", "no name for a file"), ("a%2Fb.csv", "no name for a file"),
        ("%2e%2e%5cb.csv", "no name for a file"), ("a" * 201, "more than 200 bytes"), ("a.yml", "is no table"),
    ],
)  # fmt: skip
def test_what_no_browser_sends_is_refused_too(page: Page, service: Service, name: str, said: str) -> None:
    body = bytes(MOST_BYTES + 1) if name == "large.csv" else b"a,b\n"
    status, sentence = asked(service, "POST", "/upload", body, X_Name=name)
    assert status == 400 and said in sentence
    assert not list((service.folder / "uploads").glob("[!.]*"))


def test_what_was_judged_stays(page: Page, service: Service) -> None:
    """A wrong label is said, wrong words in the file are, and a reload shows the same as before."""
    boto3.client("s3", region_name="us-east-1").put_object(Bucket="out", Key="a/my flowers.csv", Body=FLOWERS.encode())
    page.chrome.find_element(By.CSS_SELECTOR, "input[aria-label*='file in S3']").send_keys("s3://out/a/none.csv")
    page.press("Fetch")
    page.shows("There is no s3://out/a/none.csv: correct it, or upload it.")
    page.write("or a file in S3: s3://bucket/folder/file", "s3://out/a/my flowers.csv")
    page.press("Fetch")
    page.shows("3 classes to tell apart", "180 rows, 4 columns, separated by commas")
    page.write("label: the column to predict", "day")
    until(lambda: page.chrome.find_element(By.CSS_SELECTOR, ".q-menu .q-item").click() or True)
    page.shows("a number to predict")
    editor = page.chrome.find_element(By.CSS_SELECTOR, ".cm-content")
    editor.send_keys(Keys.CONTROL, Keys.END)
    editor.send_keys("epoch: 3")
    page.shows("my-flowers.yml, line 12:", "epochs")
    page.open()
    page.shows("a number to predict", "epoch: 3", "my-flowers.yml, line 12:")
    editor = page.chrome.find_element(By.CSS_SELECTOR, ".cm-content")
    editor.send_keys(Keys.CONTROL, Keys.END)
    editor.send_keys(Keys.BACKSPACE * 8)
    until(lambda: "line 12:" not in page.text)
    page.press("Another table")
    page.shows("Which table?")


def test_a_sweep_from_the_table_to_its_pictures(page: Page, service: Service) -> None:
    page.drop("flowers.csv", FLOWERS.encode())
    page.shows("What varies", "data: flowers.csv")
    assert [row[:3] for row in page.cells("columns")] == [
        ["long", "used", "number"], ["wide", "used", "number"], ["day", "used", "whole number"],
        ["kind", "label", "classes"],
    ]  # fmt: skip
    page.write("networks", "6")
    page.write("epochs of each", "2")
    page.shows("trials: 6", "epochs: 2")
    page.press("Check")
    page.shows("it takes 4 workers about", "the fleet costs $0.01", "6 networks that learn kind")
    page.press("Start")
    page.shows("Running")
    page.shows("All is stored in s3://out/sweeps/flowers/", "aws s3 sync s3://out/sweeps/flowers/ sweep", "Done")
    page.shows("6 of 6 networks")
    assert len(page.cells("best")) == 6 and {row[-1] for row in page.cells("best")} == {socket.gethostname()}
    page.chrome.switch_to.frame(page.chrome.find_element(By.TAG_NAME, "iframe"))
    until(lambda: "All 6 networks are finished" in page.text and page.chrome.find_elements(By.CSS_SELECTOR, "figure"))
    page.chrome.switch_to.default_content()
    assert asked(service, "GET", "/result/trials.csv")[1].count("\n") == 7
    loaded = page.chrome.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded and all(one.startswith(page.address) for one in loaded)
    page.press("New sweep")
    page.shows("label: kind")  # for another one of the same table


def test_a_sweep_by_the_playbook_is_stopped_and_goes_on(page: Page, service: Service) -> None:
    control.begin(service.folder, service.config)
    page.shows("by-hand", "of 60 networks")
    page.press("New sweep")
    page.shows("A sweep is running")
    assert asked(service, "POST", "/upload", b"a,b\n", X_Name="a.csv")[1].startswith("A sweep is running")
    page.press("Sweep")
    page.press("Stop")
    page.press("Yes, stop it")
    page.shows("Stopped")
    assert control.now(service.folder) is None
    systemctl = service.programs / "systemctl"
    systemctl.write_text("#!/bin/sh\necho training@worker-0.service loaded active running\n")
    systemctl.chmod(0o755)
    page.press("Go on")
    page.shows("A training or an inference runs on the fleet (training@worker-0.service)")
    systemctl.unlink()
    page.press("Go on")
    page.shows("Running")
    assert control.now(service.folder) == service.config
    control.stop(service.folder)
    page.shows("Stopped")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200), ({"Host": "localhost"}, 200), ({"Origin": "http://localhost:1"}, 200),
        ({"Host": "evil.example"}, 403), ({"Host": "127.0.0.1.evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "http://127.0.0.1.evil.example"}, 403),
    ],
)  # fmt: skip
def test_other_sites_are_refused(page: Page, service: Service, headers: dict[str, str], status: int) -> None:
    assert asked(service, "GET", "/", **headers)[0] == status
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        key = base64.b64encode(bytes(16)).decode()
        given = {
            "Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key, **headers,
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        assert f" {101 if status == 200 else 403} " in connection.recv(100).decode()


def test_a_full_disk_and_a_database_that_is_away_are_sentences(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"too little room for a\.csv"):
        page_state.room(tmp_path, 2**60, "a.csv")
    monkeypatch.setenv("PGPORT", "1")
    state = State(Fleet(tmp_path, "s3://out/sweeps/", str(tmp_path / "shared"), 900), lambda config: {})
    state.config = service.config
    asyncio.run(state.see_best())
    assert state.trouble.startswith("PostgreSQL doesn't answer") and not state.best


def test_it_ends_when_it_is_told_to(page: Page, service: Service) -> None:
    service.process.terminate()
    service.process.wait(20)
