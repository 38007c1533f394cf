"""The page in a real browser: cameras are shown, added and removed, and nothing is asked of other hosts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.support.browser import Browser, find_chromium
from tests.support.serving import Running, running, until
from videoeff.serve.page import page

CHROMIUM = find_chromium()
TOKEN = "a-token-of-32-characters-or-so"

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no chromium, chromium-browser or google-chrome on the path (Debian: apt-get install chromium)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    assert CHROMIUM is not None
    with Browser(CHROMIUM) as one:
        yield one


def leave(browser: Browser) -> None:
    """Leave the page, so that it asks nothing of a service that has ended."""
    browser.send("Page.navigate", url="about:blank")


@pytest.fixture
def one(browser: Browser) -> Iterator[Running]:
    """Two cameras, of which the first gives frames."""
    cameras = {"front": {"source": "rtsp://user:secret@host/front"}, "yard": {"source": "rtsp://host/yard"}}
    with running(cameras=cameras, networks={"people": {"path": "a"}, "cars": {"path": "b"}}) as made:
        stop = threading.Event()

        def give() -> None:
            while not stop.wait(0.02):
                made.fleet.give("front")

        thread = threading.Thread(target=give)
        thread.start()
        yield made
        leave(browser)
        stop.set()
        thread.join()


@pytest.fixture
def shown(browser: Browser, one: Running) -> Iterator[Browser]:
    """The page; afterwards nothing may have been asked of another host, and the console has to be empty."""
    browser.open(one.address + "/", width=1200)
    yield browser
    assert all(url.startswith(one.address + "/") or url == "data:," for url in browser.requests), (
        browser.requests
    )
    assert browser.problems == []


def names(browser: Browser) -> list[str]:
    found = browser.run("[...document.querySelectorAll('.camera')].map((c) => c.dataset.name)")
    assert isinstance(found, list)
    return found


def text(browser: Browser, selector: str) -> str:
    found = browser.run(f"document.querySelector({json.dumps(selector)}).textContent")
    assert isinstance(found, str)
    return found


def card(name: str, selector: str) -> str:
    return f".camera[data-name={name}] {selector}"


def fill(browser: Browser, field: str, value: str) -> None:
    browser.run(f"document.querySelector('#form [name={field}]').focus()")
    browser.write(value)


def test_the_page_is_one_file() -> None:
    content, policy = page()
    for word in ("http://", "https://", "//cdn", "@import", "url("):
        assert word not in content
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@needs_chromium
def test_cameras_their_work_and_their_speed(shown: Browser, one: Running) -> None:
    assert names(shown) == ["front", "yard"]
    assert text(shown, card("front", ".state")) == "live"
    assert text(shown, card("yard", ".state")) == "connecting"
    assert text(shown, card("front", ".source")) == "rtsp://user:***@host/front · people"
    assert text(shown, card("front", ".work output")) == "20.0 %"
    meter = f"document.querySelector({json.dumps(card('front', '.track'))})"
    assert shown.run(f"{meter}.getAttribute('aria-valuenow')") == "20.0"
    assert [text(shown, card("front", f".{c}")) for c in ("fps", "p50", "p99", "late")] == [
        "12.5", "4.0", "9.5", "0",
    ]  # fmt: skip
    assert text(shown, card("yard", ".work output")) == "–"
    shown.wait(f"document.querySelector({json.dumps(card('front', '.screen img'))}).naturalWidth === 160")
    assert "2 cameras, 1 live" in text(shown, "#summary")


@needs_chromium
def test_figures_and_pictures_change(shown: Browser, one: Running) -> None:
    image = f"document.querySelector({json.dumps(card('front', '.screen img'))}).src"
    frames = f"document.querySelector({json.dumps(card('front', '.frames'))}).textContent"
    shown.wait(f"{image}.includes('frame.jpg')")
    before, count = shown.run(image), shown.run(frames)
    shown.wait(f"{image} !== {json.dumps(before)} && {frames} !== {json.dumps(count)}")
    yard = one.fleet["yard"]
    yard.state, yard.why, yard.drifting, yard.audit_error = "lost", "no frame for 5 s", True, 0.5
    shown.wait(f"document.querySelector({json.dumps(card('yard', '.state'))}).textContent === 'lost'")
    assert text(shown, card("yard", ".why")) == "no frame for 5 s"
    assert text(shown, card("yard", ".audit")) == "0.5000 drifting"


@needs_chromium
def test_the_heat_map_is_turned_off(shown: Browser, one: Running) -> None:
    image = f"document.querySelector({json.dumps(card('front', '.screen img'))}).src"
    shown.wait(f"{image}.includes('heat=1')")
    shown.click(card("front", ".heat"))
    shown.wait(f"{image}.includes('heat=0')")
    assert shown.run(f"document.querySelector({json.dumps(card('front', '.heat'))}).ariaPressed") == "false"


@needs_chromium
def test_a_camera_is_added(shown: Browser, one: Running) -> None:
    shown.click("#adding summary")
    fill(shown, "name", "gate")
    fill(shown, "source", "rtsp://host/gate")
    shown.run("document.querySelector('#form [name=network]').value = 'cars'")
    fill(shown, "threshold", "0.25")
    fill(shown, "every", "2")
    shown.click("#form [name=loop]")
    shown.run("document.querySelector('#form [name=name]').focus()")
    shown.key("Enter")
    shown.wait("document.querySelector('.camera[data-name=gate]')")
    assert names(shown) == ["front", "yard", "gate"]
    settings = one.json("GET", "/cameras/gate")["settings"]
    assert {key: settings[key] for key in ("network", "threshold", "every", "loop", "pace")} == {
        "network": "cars", "threshold": 0.25, "every": 2, "loop": True, "pace": False,
    }  # fmt: skip
    assert shown.run("document.querySelector('#form [name=name]').value") == ""


@needs_chromium
def test_what_cannot_be_added_says_why(browser: Browser, one: Running) -> None:
    browser.open(one.address + "/")
    browser.click("#adding summary")
    browser.click("#form button")
    assert text(browser, "#problem") == "name: is missing; fill it in"
    fill(browser, "name", "front")
    fill(browser, "source", "rtsp://host/x")
    browser.click("#form button")
    browser.wait("document.querySelector('#problem').textContent.includes('is taken')")
    assert browser.run("document.querySelector('#form [name=source]').value") == "rtsp://host/x"
    assert names(browser) == ["front", "yard"]


@needs_chromium
def test_a_camera_is_removed_after_a_question(shown: Browser, one: Running) -> None:
    shown.wait(f"document.querySelector({json.dumps(card('front', '.screen img'))}).naturalWidth")
    shown.click(card("yard", ".remove"))
    assert shown.run("document.activeElement.className") == "keep"
    shown.key("Escape")
    assert names(shown) == ["front", "yard"]
    assert shown.run("document.activeElement.className") == "remove"
    shown.key("Enter")
    shown.click(card("yard", ".sure"))
    shown.wait("!document.querySelector('.camera[data-name=yard]')")
    assert list(one.fleet) == ["front"]
    assert text(shown, "#told") == "yard was removed"
    shown.wait("document.activeElement.className === 'remove'")


@needs_chromium
def test_without_cameras_the_form_is_open(browser: Browser) -> None:
    with running() as one:
        browser.open(one.address + "/")
        assert browser.run(
            "document.querySelector('#adding').open && !document.querySelector('#empty').hidden"
        )


@needs_chromium
def test_a_service_that_is_gone_is_told(browser: Browser) -> None:
    with running(cameras={"front": {"source": "rtsp://host/x"}}) as one:
        browser.open(one.address + "/")
        assert browser.run("document.querySelector('#notice').hidden")
    browser.wait("document.querySelector('#notice').textContent.includes('does not answer')")
    leave(browser)


@needs_chromium
def test_the_token_of_the_address_is_forgotten(browser: Browser) -> None:
    with running(token=TOKEN, cameras={"front": {"source": "rtsp://host/x"}}) as one:
        browser.open(one.address + "/", asked=f"{one.address}/?token={TOKEN}")
        browser.wait("document.querySelector('.camera')")
        assert browser.run("document.cookie") == ""
        assert browser.problems == []
        leave(browser)


@needs_chromium
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_cut_off(browser: Browser, one: Running, width: int) -> None:
    browser.open(one.address + "/", width=width)
    browser.click("#adding summary")
    assert browser.run("document.documentElement.scrollWidth") <= width
    cut = browser.run(
        "[...document.querySelectorAll('button, input, select, dd, h2')].filter((e) => e.offsetParent"
        " && (e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().left < 0)).length"
    )
    assert cut == 0


@needs_chromium
def test_every_control_has_a_name(browser: Browser, one: Running) -> None:
    browser.open(one.address + "/")
    browser.click("#adding summary")
    nameless = browser.run(
        "[...document.querySelectorAll('button, input, select, a, [role=meter]')].filter((e) =>"
        " !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    labels = browser.run("[...document.querySelectorAll('.remove')].map((e) => e.ariaLabel)")
    assert labels == ["Remove front", "Remove yard"]
    until(lambda: one.service.hub.clients == 0)
