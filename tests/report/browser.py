"""A headless Chromium that opens files and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(profile: Path, width: int = 1300) -> Iterator[Any]:
    """Start one, with a driver that can be asked what was fetched and what went wrong."""
    from selenium import webdriver

    binary = next((found for name in NAMES if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    assert binary and driver, "the page is tested in Chromium: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # No name is looked up: whoever asks for a host gets an error, and is seen to have asked.
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"]
    # Root may not sandbox, containers often cannot; it opens files of our own making.
    arguments += [f"--window-size={width},1000", f"--user-data-dir={profile}", "--no-sandbox"]
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield browser
    finally:
        browser.quit()


def fetched(browser: Any) -> list[str]:
    """Addresses the page has asked for since the last time, without the pictures in it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser begins with a page of its own.
    urls = [one["request"]["url"] for one in asked if not one["documentURL"].startswith("chrome:")]
    return [url for url in urls if not url.startswith("data:")]
