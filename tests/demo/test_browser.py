"""The page in a real browser: Chromium without a window, driven by selenium; skipped where there is none."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyres.sample.writer import read_recipe
from tests.made import pipeline

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("gradio", "selenium")),
        reason="needs gradio and selenium",
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # in a container there is no sandbox to be had, and little shared memory
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1200"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


# In a process of its own, as the page's functions are not those of the package while types are checked.
DEMO = """
import socket, sys, time

connect = socket.socket.connect

def connect_here(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
        print("asked", address, file=sys.stderr, flush=True)
        raise OSError("no network")
    return connect(self, address)

socket.socket.connect = connect_here

from anyres.cli import main
from anyres.model.nit import NiT

forward = NiT.forward

def slowly(*args, **kwargs):
    print("forward", file=sys.stderr, flush=True)
    time.sleep(0.05)
    return forward(*args, **kwargs)

NiT.forward = slowly
sys.exit(main(["demo", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    log: Path
    temporary: Path

    def said(self, word: str) -> int:
        return self.log.read_text().count(word)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("demo")
    pipeline().save_pretrained(folder / "model")
    (folder / "temporary").mkdir()
    command = [sys.executable, "-c", DEMO, str(folder / "model"), "--no-browser", "--device", "cpu"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT / "src")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            line = process.stdout.readline()
            assert " at http://127.0.0.1:" in line, (folder / "log").read_text()
            url = line.split(" at ")[1].split()[0]
            yield Server(url, process, folder / "log", folder / "temporary")
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def page(browser: Any, server: Server) -> Any:
    browser.get(server.url)
    until(lambda: browser.find_elements("id", "make"))
    return browser


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happened")


def write_steps(page: Any, value: int) -> None:
    page.find_element("css selector", "#how button").click()
    until(lambda: page.find_elements("css selector", "#steps input[type=number]"))
    write(page, "steps", value)


def write(page: Any, field: str, value: int) -> None:
    """Type a number, as a user would; leaving the field tells the page."""
    box = page.find_element("css selector", f"#{field} input[type=number]")
    box.clear()
    box.send_keys(str(value), "\t")


def click(page: Any, button: str) -> None:
    page.find_element("id", button).click()


def status(page: Any) -> str:
    return page.find_element("id", "status").text


def addresses(page: Any) -> list[str]:
    """Of the pictures in the gallery."""
    script = "return [...document.querySelectorAll('#pictures img')].map(image => image.src)"
    return page.execute_script(script)


def fetched(address: str) -> Image.Image:
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - of this machine
        image = Image.open(io.BytesIO(answer.read()))
        image.load()
        return image


def test_a_click_makes_a_picture_which_can_be_downloaded_with_its_recipe(page: Any, tmp_path: Path) -> None:
    write(page, "width", 96)
    write(page, "height", 48)
    write(page, "seed", 7)
    click(page, "make")
    until(lambda: status(page).startswith("Made 1 picture"))
    (address,) = until(lambda: addresses(page))
    assert fetched(address).size == (96, 48)
    link = until(lambda: page.find_elements("css selector", "#files a[download]"))[0].get_attribute("href")
    (tmp_path / "downloaded.png").write_bytes(urllib.request.urlopen(link).read())  # noqa: S310
    recipe = read_recipe(tmp_path / "downloaded.png")
    assert (recipe["label"], recipe["size"], recipe["seed"], recipe["steps"]) == ("land", "96x48", 7, 4)


def test_several_shapes_at_once_and_a_preview_on_the_way(page: Any) -> None:
    write(page, "width", 64)
    write(page, "height", 64)
    write_steps(page, 40)
    for choice in page.find_elements("css selector", "#also input")[3:5]:
        choice.click()
    click(page, "make")
    until(lambda: status(page).startswith("Step ") and addresses(page))
    until(lambda: status(page).startswith("Made 3 pictures"))
    final = until(lambda: len(addresses(page)) == 3 and addresses(page))
    assert [fetched(address).size for address in final] == [(64, 64), (368, 176), (176, 368)]


def test_a_bad_size_is_told_in_words(page: Any) -> None:
    write(page, "width", 100)
    click(page, "make")
    until(lambda: "sides that are multiples of 16 px" in page.find_element("tag name", "body").text)
    text = page.find_element("tag name", "body").text
    assert "Got size 100x256 px" in text
    assert "To fix: use 96x256 or 112x256" in text
    assert not addresses(page)


def test_another_takes_the_next_seed(page: Any) -> None:
    write(page, "width", 32)
    write(page, "height", 32)
    write(page, "seed", 4)
    click(page, "another")
    until(lambda: status(page).startswith("Made 1 picture"))
    (address,) = until(lambda: addresses(page))
    assert json.loads(fetched(address).info["anyres"])["seed"] == 5


def test_a_shape_fills_in_its_sides(page: Any) -> None:
    page.find_elements("css selector", "#shape input")[3].click()
    sides = [page.find_element("css selector", f"#{side} input") for side in ("width", "height")]
    until(lambda: [side.get_attribute("value") for side in sides] == ["368", "176"])


def test_stop_ends_the_work(page: Any, server: Server) -> None:
    write_steps(page, 100)
    click(page, "make")
    until(lambda: status(page).startswith("Step "))
    click(page, "stop")
    until(lambda: status(page) == "Stopped.")
    until(lambda: _at_rest(server))
    assert status(page) == "Stopped."
    write(page, "steps", 1)
    click(page, "make")  # and the page is not blocked
    until(lambda: status(page).startswith("Made 1 picture"))


def _at_rest(server: Server) -> bool:
    before = server.said("forward")
    time.sleep(0.7)
    return server.said("forward") == before


def test_nobody_else_is_asked_for_anything(page: Any, server: Server) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(address.startswith(server.url) for address in asked)
    assert [a for a in asked if not a.startswith((server.url, "data:", "blob:"))] == []
    assert server.said("asked") == 0


def test_ctrl_c_in_the_middle_of_the_work_leaves_nothing_behind(page: Any, server: Server) -> None:
    assert list(server.temporary.glob("anyres-demo-*"))
    write_steps(page, 100)
    click(page, "make")
    until(lambda: status(page).startswith("Step "))
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    assert "interrupted" in server.log.read_text()
    assert list(server.temporary.glob("anyres-demo-*")) == []
