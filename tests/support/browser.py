"""A page of a headless Chromium, and what its console says is wrong; a test skips where there is none."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def browser_page(*flags: str, **context) -> Iterator[tuple]:
    """The page and its errors; `flags` are those of Chromium, `context` what Playwright's context takes."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright is installed")
    with playwright.sync_playwright() as driver:
        chromium = shutil.which("chromium") or driver.chromium.executable_path
        if not Path(chromium).exists():
            pytest.skip("no browser is installed: apt-get install chromium, or playwright install chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=list(flags))
        page = browser.new_context(viewport={"width": 1280, "height": 1000}, **context).new_page()
        errors: list[str] = []
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        yield page, errors
        browser.close()
