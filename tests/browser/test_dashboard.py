"""The dashboard as people see it, served by the product itself: charts, live figures, telephone, dark, keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Scheme, Visit
from tests.cast import PASSWORD
from tests.dashboard.site import run, running_site

pytestmark = pytest.mark.browser

CHARTS = ("cost", "requests", "tokens", "duration", "ttft")
INK = """id => {
  const canvas = document.getElementById(id);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] === 255) colours.add(pixels.slice(at, at + 3).join());
  return colours.size;
}"""

Visitor = Callable[[int, Scheme], Visit]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def site(data_dir: Path) -> Iterator[str]:
    with running_site(data_dir) as origin:
        yield origin


@pytest.fixture
def visit(chromium: Browser, site: str) -> Iterator[Visitor]:
    """Somebody at a screen of the given width, not logged in. Afterwards nothing may have gone wrong."""
    visits: list[Visit] = []

    def start(width: int, scheme: Scheme = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        visit = Visit(context.new_page(), site)
        visit.page.on("console", visit.on_console)
        visit.page.on("pageerror", lambda error: visit.problems.append(f"{visit.page.url}: {error}"))
        visit.page.on("response", visit.on_response)
        visits.append(visit)
        return visit

    yield start
    for visit in visits:
        visit.page.context.close()
    assert [problem for visit in visits for problem in visit.problems] == []


def log_in(visit: Visit, name: str = "bob") -> Page:
    """By keyboard alone: the name has the focus when the page opens."""
    page = visit.open("/login/")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/login/" not in url)
    return page


def serious(page: Page) -> list[Any]:
    """What axe finds that keeps people out."""
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]


def test_every_chart_is_drawn_and_has_its_numbers_beside_it(visit: Visitor) -> None:
    page = log_in(visit(1280, "light"))
    page.goto(f"{page.url}?period=30d")

    for chart in CHARTS:
        expect(page.locator(f"#chart-{chart}")).to_be_visible()
        assert page.evaluate(INK, f"chart-{chart}") >= 2, f"nothing is drawn on {chart}"
        page.locator(f".{chart} summary").click()
        expect(page.locator(f".{chart} table tbody tr")).to_have_count(30)
        expect(page.locator(f".{chart} table")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_pages_fit_and_keep_nobody_out(visit: Visitor, width: int, scheme: Scheme) -> None:
    visitor = visit(width, scheme)
    page = visitor.open("/login/")
    assert serious(page) == []
    assert visitor.overflow() <= 0

    log_in(visitor)
    expect(page.locator("#live-state")).to_have_text("live")
    links = page.locator("td.time a")
    request = links.first.get_attribute("href") or ""
    for path in ("/teams/platform/?period=90d", "/requests/?team=platform", request):
        visitor.open(path)
        if page.locator("#live-state").count():
            expect(page.locator("#live-state")).to_have_text("live")
        assert visitor.overflow() <= 0, f"{path} is too wide for {width} pixels"
        assert serious(page) == [], path


@pytest.mark.parametrize("width", [1280, 390])
def test_lists_of_teams_and_empty_teams_fit_and_keep_nobody_out(visit: Visitor, width: int) -> None:
    visitor = visit(width, "light")
    page = log_in(visitor, "alice")

    for path in ("/", "/teams/research/"):
        visitor.open(path)
        assert visitor.overflow() <= 0
        assert serious(page) == [], path
    expect(page.get_by_text("No requests in the last 7 days")).to_be_visible()


BESIDE_EACH_OTHER = """
[...document.querySelectorAll('.figure')].map((figure) => figure.scrollWidth - figure.clientWidth)
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_small_cost_with_many_digits_does_not_reach_into_the_next_figure(visit: Visitor, width: int) -> None:
    page = log_in(visit(width, "light"))
    page.evaluate("for (const cost of document.querySelectorAll('.figure dd')) cost.textContent = '$0.00012345678'")

    reaches = page.evaluate(BESIDE_EACH_OTHER)
    assert len(reaches) >= 3
    assert max(reaches) <= 0


def test_figures_follow_what_another_process_writes(visit: Visitor, data_dir: Path) -> None:
    page = log_in(visit(1280, "light"))
    expect(page.locator("#live-state")).to_have_text("live")
    before = page.locator("[data-live=cost]").inner_text()

    run(data_dir, "-m", "tests.dashboard.site", str(250 * 10**12), "spent-by-another-process")

    expect(page.locator("[data-live=cost]")).not_to_have_text(before)
    expect(page.locator("[data-live=cost]")).to_contain_text("$25")
    expect(page.locator(".budget.spent").first).to_be_visible()


def test_without_a_socket_the_page_asks_by_itself(visit: Visitor) -> None:
    visitor = visit(1280, "light")
    visitor.page.route_web_socket("**/ws/**", lambda socket: socket.close())
    page = log_in(visitor)

    expect(page.locator("#live-state")).to_have_text("every 10 s")


def test_the_link_over_the_header_leads_to_the_content(visit: Visitor) -> None:
    page = log_in(visit(1280, "light"))

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator("#content")).to_be_focused()


def test_the_menu_leads_to_another_team_by_keyboard(visit: Visitor) -> None:
    visitor = visit(1280, "light")
    log_in(visitor, "alice")
    page = visitor.open("/teams/platform/")

    page.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    page.wait_for_url("**/teams/research/")
