"""A real browser."""

import os
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, async_playwright

from tests.support import needs

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of a browser with an empty profile. Skips where there is no chromium."""
    chromium = os.environ.get("CHROMIUM") or needs.program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = await browser.new_page()
            page.set_default_timeout(10_000)
            yield page
        finally:
            await browser.close()
