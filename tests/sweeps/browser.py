"""A real browser without a screen, for tests of pages."""

import importlib.util
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PATIENCE_S = 120.0
"""How long a page may take until it shows what it should: the machine may be busy."""


def missing() -> str | None:
    """What a browser test lacks on this machine, a sentence; None where it can run."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed (make install has it)"
    if shutil.which("chromium") is None:
        return "Chromium is not installed (Debian's package: chromium)"
    if shutil.which("chromedriver") is None:
        return "Chromium's driver is not installed (Debian's package: chromium-driver)"
    return None


@contextmanager
def chromium(*, width: int = 1600, height: int = 1000) -> Iterator["Browser"]:
    """A browser for the length of a `with`."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for word in (
        "--headless=new",
        "--no-sandbox",  # as root there is none
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--force-color-profile=srgb",
        f"--window-size={width},{height}",
    ):
        options.add_argument(word)
    driver = Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What a person sees of pages."""

    def __init__(self, driver: "Chrome") -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Go to a page; the same page with another part after the # is loaded anew."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def text(self) -> str:
        """All that the page shows in words, blanks of any kind as one."""
        text = self.driver.execute_script("return document.body ? document.body.innerText : ''")
        return re.sub(r"\s+", " ", str(text))

    def wait_for(self, what: str, found: Callable[[], object]) -> object:
        """Wait until something is true and return it; an AssertionError says what the page shows instead."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            value = found()
            if value:
                return value
            assert time.monotonic() < deadline_s, f"{what} never came; the page shows: {self.text()[:3000]}"
            time.sleep(0.25)

    def wait_for_texts(self, *texts: str) -> str:
        """Wait until the page shows all of these texts; returns all that it shows."""
        for text in texts:
            self.wait_for(repr(text), lambda text=text: text in self.text())
        return self.text()

    def cells(self) -> list[dict[str, str]]:
        """The rows of a grid that are on the screen: column id -> what its cell shows."""
        script = """
            const rows = {};
            for (const cell of document.querySelectorAll('.ag-cell')) {
                const row = cell.closest('[row-index]').getAttribute('row-index');
                (rows[row] = rows[row] || {})[cell.getAttribute('col-id')] = cell.innerText.trim();
            }
            return Object.keys(rows).sort((a, b) => a - b).map(row => rows[row]);
        """
        found: list[dict[str, str]] = self.driver.execute_script(script)
        return found

    def screenshot(self, path: Path | None) -> None:
        """Keep a picture of what is on the screen, if a path is given."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.driver.get_screenshot_as_png())
