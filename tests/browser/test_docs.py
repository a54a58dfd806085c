"""The page to explore the API with, in a real browser."""

import pytest
from playwright.async_api import Page, expect

from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.settings import READ

pytestmark = pytest.mark.slow

TOKEN = READ["Authorization"].removeprefix("Bearer ")


async def test_every_operation_is_there_and_can_be_tried(api: Api, page: Page) -> None:
    """The page draws the description under its strict policy, and a request filled in gets the
    API's answer."""
    event = (await api.context.replica.append(ALL_GOOD)).event
    complaints: list[str] = []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"{api.url}/docs")
    operations = page.locator("details")
    described = (await api.get("/openapi.json")).json["paths"]
    await expect(operations).to_have_count(sum(len(methods) for methods in described.values()))
    one = operations.filter(has=page.get_by_text("/v0/cluster/events/{event_id}", exact=True))
    await one.locator("summary").click()
    await one.get_by_role("button", name="Send").click()
    await expect(one.get_by_role("status")).to_contain_text("AuthenticationFailed")
    complaints.clear()  # The browser notes the refusal as an error.
    await page.get_by_label("Token").fill(TOKEN)
    await one.get_by_label("selector").fill("all")
    await one.get_by_role("button", name="Send").click()
    await expect(one.get_by_role("status")).to_contain_text(event.id)
    await expect(one.get_by_role("status")).to_contain_text("compiler_self_info")
    shown = await one.locator("pre").first.inner_text()
    assert f"{api.url}/v0/cluster/events/latest?selector=all" in shown
    assert TOKEN not in shown
    assert complaints == []


async def test_it_fits_a_phone(api: Api, page: Page) -> None:
    """Nothing is wider than a narrow screen."""
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{api.url}/docs")
    await expect(page.locator("details").first).to_be_visible()
    for summary in await page.locator("summary").all():
        await summary.click()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_its_files_are_protected(api: Api) -> None:
    """The policy lets nothing come from elsewhere, and only the page's own files are served."""
    for path in ("/docs", "/docs/explore.js", "/docs/explore.css"):
        got = await api.request("GET", path, {})
        assert got.status == 200
        assert "default-src 'none'" in got.headers["Content-Security-Policy"]
        assert "unsafe" not in got.headers["Content-Security-Policy"]
    for path in ("/docs/explore.html", "/docs/..%2fdocs.py", "/docs/x"):
        got = await api.request("GET", path, {})
        assert (got.status, got.json["error_code"]) == (404, "UnknownEndpoint")
