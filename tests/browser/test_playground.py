"""The playground as people use it: the product itself, a fake provider behind it, and a key pasted into the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Scheme, Visit
from tests.browser.test_dashboard import serious
from tests.e2e.harness import KEY, LIMITED_KEY, Product, Provider, running_product, running_provider

pytestmark = pytest.mark.browser

Visitor = Callable[[int, Scheme], Visit]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("playground")
    with running_provider(folder) as provider, running_product(folder, provider) as product:
        yield product, provider


@pytest.fixture
def provider(place: tuple[Product, Provider]) -> Provider:
    place[1].reset()
    return place[1]


@pytest.fixture
def visit(chromium: Browser, place: tuple[Product, Provider], provider: Provider) -> Iterator[Visitor]:
    """The admin at a screen of the given width, on the playground. Nothing but refused requests may go wrong."""
    visits: list[Visit] = []

    def start(width: int, scheme: Scheme = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit = Visit(context.new_page(), place[0].url)
        visits.append(visit)
        page = visit.open("/login/?next=/playground/")
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill("correct horse battery staple")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login/" not in url)
        page.on("console", visit.on_console)
        page.on("pageerror", lambda error: visit.problems.append(f"{page.url}: {error}"))
        return visit

    yield start
    for visit in visits:
        visit.page.context.close()
    problems = [problem for visit in visits for problem in visit.problems]
    assert [problem for problem in problems if "Failed to load resource" not in problem] == []


def with_key(page: Page, key: str = KEY) -> Page:
    page.get_by_label("API key of the gateway").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    return page


def figure(page: Page, name: str) -> str:
    return page.locator(f"[data-of={name}]").first.inner_text()


def test_a_question_is_answered_as_the_model_speaks_with_all_its_figures(visit: Visitor) -> None:
    page = with_key(visit(1280, "light").page)
    page.get_by_label("Model, or kind of task").select_option("chat")
    page.get_by_label("Question", exact=True).fill("Hi")

    page.keyboard.press("Control+Enter")

    expect(page.locator("#state")).to_have_text("Done.")
    assert page.locator("#answer").inner_text()
    assert int(figure(page, "total")) == int(figure(page, "input")) + int(figure(page, "output")) > 0
    assert figure(
        page, "cost"
    ) == f"${(int(figure(page, 'input')) * 15 + int(figure(page, 'output')) * 60) / 1e8:.12f}".rstrip("0")
    assert figure(page, "attempts") == "1"
    assert figure(page, "first").endswith("ms")
    expect(page.locator("[data-of=by]")).to_have_text("fake / fake-chat-main")
    expect(page.locator("#providers li").filter(has_text="fake").first).to_contain_text("healthy")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#state")).to_have_text("Copied.")


def test_a_stream_can_be_left(visit: Visitor, provider: Provider) -> None:
    page = with_key(visit(1280, "light").page)
    page.get_by_label("Model, or kind of task").select_option("chat")
    page.get_by_label("Question", exact=True).fill("Hi")
    provider.script(stall_after=2)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#answer")).not_to_be_empty()

    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#state")).to_contain_text("Cancelled")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_what_is_refused_says_why_and_what_next(visit: Visitor, provider: Provider) -> None:
    page = with_key(visit(390, "light").page)
    page.get_by_label("Question", exact=True).fill("Hi")
    page.get_by_label("Model, or kind of task").select_option("chat")
    provider.script(status=503)
    page.get_by_role("button", name="Send").click()

    expect(page.locator("#problem")).to_contain_text("Send it again in a moment")
    expect(page.locator("#problem")).to_contain_text("req_")


def test_a_wrong_key_is_told_and_not_kept(visit: Visitor) -> None:
    page = visit(1280, "light").page
    page.get_by_label("API key of the gateway").fill("sk-gw-nobody0000-0123456789abcdefghij")
    page.keyboard.press("Enter")

    expect(page.locator("#key-problem")).to_contain_text("Paste another key")
    expect(page.locator("#desk")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_stays_in_the_tab_and_can_be_forgotten(visit: Visitor) -> None:
    page = with_key(visit(1280, "light").page, LIMITED_KEY)
    assert page.locator("#model-options option").all_inner_texts() == ["chat"]
    assert page.evaluate("localStorage.length") == 0

    page.reload()
    expect(page.locator("#desk")).to_be_visible()
    page.get_by_role("button", name="Forget it").click()

    expect(page.locator("#desk")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    page.reload()
    expect(page.locator("#desk")).to_be_hidden()


def test_several_answer_side_by_side(visit: Visitor) -> None:
    page = with_key(visit(1280, "light").page)
    page.get_by_label("Several, side by side").check()
    for box in page.locator("#model-boxes input").all():
        box.uncheck()
    for name in ("chat", "embed", "flash"):
        page.get_by_label(name, exact=True).check()
    page.get_by_label("Question", exact=True).fill("Hi")
    page.get_by_role("button", name="Send").click()

    expect(page.locator("#answers article")).to_have_count(3)
    expect(page.locator("#answers h3")).to_have_text(["chat", "embed", "flash"])
    expect(page.locator("#answers article").first).to_contain_text("tokens · $0.0000")


def test_a_kind_of_task_is_answered(visit: Visitor) -> None:
    page = with_key(visit(1280, "light").page)
    page.get_by_label("Model, or kind of task").select_option("task:summarization")
    page.get_by_label("Question", exact=True).fill("Hi")
    page.get_by_role("button", name="Send").click()

    expect(page.locator("#state")).to_have_text("Done.")
    assert page.locator("#answer").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_page_fits_and_keeps_nobody_out(visit: Visitor, width: int, scheme: Scheme) -> None:
    visitor = visit(width, scheme)
    page = visitor.page
    assert serious(page) == []
    assert visitor.overflow() <= 0

    with_key(page)
    page.get_by_label("Model, or kind of task").select_option("chat")
    page.get_by_label("Question", exact=True).fill("Hi " + "long" * 100)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#state")).to_have_text("Done.")
    assert serious(page) == []
    assert visitor.overflow() <= 0

    page.get_by_label("Several, side by side").check()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#answers article").first).to_be_visible()
    expect(page.locator("#state")).to_have_text("Done.")
    assert serious(page) == []
    assert visitor.overflow() <= 0
