"""A browser for tests: Chromium without a screen, which writes down what it asks for."""

import contextlib
import json
import shutil
from urllib.parse import urlparse

ABSENT = "no Chromium here: apt-get install chromium chromium-driver"
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars",
)
NETWORK = ("http", "https", "ws", "wss")


def is_here():
    return all(map(shutil.which, ("chromium", "chromedriver")))


@contextlib.contextmanager
def chromium(profile, width=1280, height=900, *switches):
    """A `selenium` driver, with a profile of its own in an empty folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in (*SWITCHES, f"--window-size={width},{height}", f"--user-data-dir={profile}",
                   *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    driver.set_page_load_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


def hosts(driver):
    """The hosts that pages have asked since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        event["params"]["request"]["url"] for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    urls += [
        event["params"]["url"] for event in events if event["method"] == "Network.webSocketCreated"
    ]
    return {urlparse(url).hostname for url in urls if urlparse(url).scheme in NETWORK}


def complaints(driver):
    """Errors in the console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
