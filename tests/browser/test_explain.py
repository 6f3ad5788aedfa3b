"""Explain as people use it: the product itself, and a key pasted into the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Scheme, Visit
from tests.e2e.harness import LIMITED_KEY, Product, running_product, running_provider

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("explain")
    with running_provider(folder) as provider, running_product(folder, provider) as product:
        yield product


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_decision_is_shown_and_fits(chromium: Browser, product: Product, width: int, scheme: Scheme) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    visit = Visit(context.new_page(), product.url)
    page = visit.open("/admin/login/?next=/admin/explain/")
    page.locator("[name=username]").fill("admin")
    page.locator("[name=password]").fill("correct horse battery staple")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/explain/")
    page.on("console", visit.on_console)
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.get_by_label("API key", exact=False).first.fill(LIMITED_KEY)
    page.locator("[name=model]").fill("chat")
    page.locator("[name=body]").fill('{"messages": [{"role": "user", "content": "' + "word " * 200 + '"}]}')

    page.get_by_role("button", name="Explain").click()

    expect(page.get_by_role("status")).to_contain_text("It would be sent to 'fake-chat-main'")
    expect(page.locator("[aria-label=Targets]")).to_contain_text("healthy")
    expect(page.locator("[aria-label='Limits and budgets']")).to_contain_text("0 of 3")
    assert LIMITED_KEY not in page.content()
    assert visit.overflow() <= 0
    serious = [
        f"{finding['id']}: {node['html']}"
        for finding in Axe().run(page).response["violations"]
        if finding["impact"] in {"serious", "critical"}
        for node in finding["nodes"]
    ]
    assert serious == []
    assert visit.problems == []
    context.close()
