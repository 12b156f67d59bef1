"""The demo in a browser: as a visitor uses it, with what it asks of whom and what it complains."""

import io
import json
import re
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from ddjax.demo import png
from ddjax.pipeline import Pipeline
from tests import browser
from tests.commands import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.is_here(), reason=browser.ABSENT),
]

SECONDS = 120


@pytest.fixture(scope="module")
def address(finished):
    """Of a running demo, as it prints it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddjax.demo", f"--workdir={finished[0]}", f"--port={port}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}" in line
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(timeout=60) == 143


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(address, driver):
    """Opened, with its first images drawn."""
    driver.get(address)
    until(driver, lambda: images(driver, "gallery") and shown(driver, "#gallery .dd-button"))
    return driver


def until(driver, condition):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    stale = [StaleElementReferenceException]
    return WebDriverWait(driver, SECONDS, 0.1, stale).until(lambda _: condition())


def shown(driver, selector):
    return [one for one in driver.find_elements("css selector", selector) if one.is_displayed()]


def images(driver, where):
    return [one.get_attribute("src") for one in shown(driver, f"#{where} img")]


def press(driver, name):
    next(one for one in shown(driver, "button") if one.text == name).click()


def field(driver, name):
    """By its label, as a screen reader finds it."""
    path = f"//label[contains(., '{name}')]//*[self::input or self::textarea]"
    return driver.find_element("xpath", path)


def test_the_page_opens_with_images_and_asks_nobody_else(page):
    """Four methods of four images; all that is loaded is of this machine."""
    assert len(images(page, "gallery")) == 16
    text = shown(page, "#gallery")[0].text
    for words in ("teacher_flow", "16 passes", "ms an image", "100% of tokens equal the map's"):
        assert words in text
    assert browser.hosts(page) == {"127.0.0.1"}
    assert not browser.complaints(page)


def test_an_image_is_downloaded_with_what_made_it(page, finished):
    link = shown(page, "#gallery a[download^='student_1step']")[1]
    with urllib.request.urlopen(link.get_attribute("href")) as file:
        image = Image.open(io.BytesIO(file.read()))
    about = json.loads(image.text[png.KEY])
    pipe = Pipeline.from_workdir(finished[0])
    again = pipe(**about["call"]).pil()[about["position"]]
    close = np.abs(np.asarray(again, int) - np.asarray(image, int))
    assert close.max() <= 1 and about["position"] == 1


def test_another_seed_and_other_classes_give_other_images(page):
    before = images(page, "gallery")
    press(page, "Next seed")
    until(page, lambda: set(images(page, "gallery")) - set(before))
    until(page, lambda: len(images(page, "gallery")) == 16)
    assert field(page, "Seed").get_attribute("value") == "1"
    field(page, "Class").send_keys("3,7\n")  # by the keyboard alone
    until(page, lambda: [one.text for one in shown(page, "#gallery thead th")] == list("3737"))


def test_a_trajectory_follows_its_slider(page):
    press(page, "Trajectory")
    press(page, "Show X_k")
    until(page, lambda: "all noise" in shown(page, "#frames")[0].text)
    noise = images(page, "frames")
    slider = shown(page, "input[type=range]")[0]
    slider.send_keys("\ue010")  # the key End
    until(page, lambda: "the finished image" in shown(page, "#frames")[0].text)
    assert len(noise) == 4 and not set(noise) & set(images(page, "frames"))


def test_two_methods_run_against_the_clock(page):
    press(page, "Compare")  # the tab
    next(one for one in shown(page, "button.primary") if one.text == "Compare").click()
    until(page, lambda: "times as long as" in shown(page, "#clocks")[0].text)
    until(page, lambda: len(images(page, "clocks")) == 8)  # shown again slowly, they appear late
    assert re.search(r"\d+\.\d{3} s", shown(page, "#clocks")[0].text)


def test_what_is_wrong_is_said_in_words_and_the_page_goes_on(page):
    field(page, "Class").send_keys("12\n")
    alert = until(page, lambda: shown(page, "#gallery [role=alert]"))[0]
    assert alert.text == "class: got 12, must be whole numbers in 0..9, with commas between"
    field(page, "Class").send_keys("\ue003\ue0033\n")  # two times the key Backspace
    until(page, lambda: len(images(page, "gallery")) == 16)
    assert not browser.complaints(page)


def test_a_phone_needs_no_sideways_scrolling_of_the_page(page):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        until(page, lambda: page.execute_script(wide) <= 0)
        assert shown(page, "#gallery img")[0].size["width"] >= 72
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_one_tabs_through_has_a_name(page):
    """Every field and button says what it is to a screen reader; every image has a text."""
    unnamed = """
      const named = e => e.labels?.length || e.ariaLabel || e.innerText?.trim() || e.title
      return [...document.querySelectorAll("input, textarea, button, a")]
        .filter(e => e.offsetParent && !named(e)).map(e => e.outerHTML.slice(0, 200))"""
    assert not page.execute_script(unnamed)
    assert all(one.get_attribute("alt") for one in shown(page, "#gallery img"))


def test_two_visitors_share_the_device_and_both_get_their_images(page, address):
    windows = [page.current_window_handle]
    page.switch_to.new_window("window")
    windows.append(page.current_window_handle)
    page.get(address)
    until(page, lambda: images(page, "gallery") and shown(page, "#gallery .dd-button"))
    before = set(images(page, "gallery"))
    for window in windows:
        page.switch_to.window(window)
        press(page, "Next seed")
    found = []
    for window in windows:
        page.switch_to.window(window)
        until(page, lambda: len(set(images(page, "gallery")) - before) == 16)
        found.append(images(page, "gallery"))
    page.close()
    page.switch_to.window(windows[0])
    assert found[0] == found[1]
