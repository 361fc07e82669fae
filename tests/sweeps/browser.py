"""A real browser without a screen, for tests of pages."""

import importlib.util
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

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

    def remember(self, **values: str) -> None:
        """Leave settings with the site that is open, as its own pages do when somebody chooses them."""
        for key, value in values.items():
            self.driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)

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
        """Wait until the page shows all of these texts at once; returns all that it shows then."""

        def found() -> str | None:
            shown = self.text()
            return shown if all(text in shown for text in texts) else None

        return str(self.wait_for(" and ".join(map(repr, texts)), found))

    def press(self, text: str, kinds: str = "button, [role=tab]") -> None:
        """Click the first element of these kinds that shows this text and nothing else, once it is there."""
        script = """
            const found = [...document.querySelectorAll(arguments[1])];
            const one = found.find(element => element.innerText.trim() === arguments[0]);
            if (one) one.scrollIntoView({block: 'center'});
            return one;
        """
        self._click(repr(text), lambda: self.driver.execute_script(script, text, kinds))

    def follow(self, text: str) -> None:
        """Go where a link leads, once it is there."""
        script = """
            return [...document.querySelectorAll('a')].find(a => a.innerText === arguments[0])?.href;
        """
        self.open(str(self.wait_for(repr(text), lambda: self.driver.execute_script(script, text))))

    def choose(self, selector_id: str, option: str) -> None:
        """Open a list by the id of its button and click one of its entries."""
        self._click(selector_id, lambda: self.driver.find_elements("id", selector_id)[:1])
        self.press(option, "[role=option]")

    def press_header(self, column: str) -> None:
        """Click the head of a grid's column."""
        selector = f'.ag-header-cell[col-id="{column}"] [data-testid^=sort-header]'
        self._click(column, lambda: self.driver.find_elements("css selector", selector)[:1])

    def _click(self, what: str, find: Callable[[], Any]) -> None:
        """Click an element; one that the page replaces or covers at that moment is looked for again."""
        from selenium.common.exceptions import (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
        )

        def clicked() -> bool:
            found = find()
            element = found[0] if isinstance(found, list) and found else found
            if not element:
                return False
            try:
                element.click()
            except (
                ElementClickInterceptedException,
                ElementNotInteractableException,
                StaleElementReferenceException,
            ):
                return False
            return True

        self.wait_for(what, clicked)

    def plots(self) -> list[dict[str, Any]]:
        """Plotly's charts on the page: type, kind of the x axis, numbers of all their traces in a row."""
        script = """
            return [...document.querySelectorAll('.js-plotly-plot')].filter(plot => (plot.data || []).length)
                .map(plot => ({
                    type: plot.data[0].type,
                    axis: ((plot._fullLayout || {}).xaxis || {}).type,
                    x: plot.data.flatMap(trace => Array.from(trace.x || [])),
                    y: plot.data.flatMap(trace => Array.from(trace.y || [])),
                    dimensions: (plot.data[0].dimensions || []).map(one => Array.from(one.values)),
                }));
        """
        found: list[dict[str, Any]] = self.driver.execute_script(script)
        return found

    def wait_for_axes(self, names: list[str]) -> list[list[str]]:
        """Wait for parallel coordinates (of a page of runs) over these axes; returns the ticks of each.

        MLflow shortens long names in the middle.
        """
        script = """
            return [...document.querySelectorAll('.parcoords g.dimension')].map(axis => [
                axis.querySelector('.label').textContent,
                [...axis.querySelectorAll('.tick text')].map(tick => tick.textContent),
            ]);
        """

        def found() -> list[list[str]] | None:
            shown: list[tuple[str, list[str]]] = self.driver.execute_script(script)
            parts = [label.partition("...") for label, _ in shown]
            fits = len(parts) == len(names) and all(
                name.startswith(start) and name.endswith(end)
                for name, (start, _, end) in zip(names, parts, strict=True)
            )
            return [ticks for _, ticks in shown] if fits else None

        return self.wait_for(f"parallel coordinates of {names}", found)  # type: ignore[return-value]

    def drawn_images(self) -> int:
        """How many pictures wider than an icon are on the page."""
        script = "return [...document.images].filter(image => image.naturalWidth > 200).length"
        return int(self.driver.execute_script(script))

    def wait_for_rows(self, number: int, column: str, first: str) -> list[dict[str, str]]:
        """Wait until a grid has so many rows and the first of them shows a value in a column."""

        def found() -> list[dict[str, str]] | None:
            rows = self.cells()
            return rows if len(rows) == number and rows[0].get(column) == first else None

        return self.wait_for(f"{number} rows, {column} {first} first", found)  # type: ignore[return-value]

    def wait_for_sorted(self, column: str) -> list[dict[str, str]]:
        """Wait until the rows of a grid are in the order of a column, either way."""

        def found() -> list[dict[str, str]] | None:
            rows = self.cells()
            values = [row[column] for row in rows if row.get(column, "-") != "-"]
            return rows if values and values in (sorted(values), sorted(values, reverse=True)) else None

        return self.wait_for(f"rows sorted by {column}", found)  # type: ignore[return-value]

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
        """Keep a picture of what is on the screen, of 256 colours, if a path is given."""
        if path is not None:
            with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as picture:
                flat = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            path.parent.mkdir(parents=True, exist_ok=True)
            flat.save(path, optimize=True)
