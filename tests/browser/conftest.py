"""Pages in headless Chromium. Anything on the console, a script that fails, or a broken address fails the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright
from pytest_django.live_server_helper import LiveServer

from tests.cast import Cast
from tests.llmgateway.admin.world import World, create_world

Scheme = Literal["light", "dark"]


@dataclass
class Visit:
    """A page, and what went wrong on it."""

    page: Page
    origin: str
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.origin}{path}")
        return self.page

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{self.page.url}: {message.text}")

    def on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status} {response.url}")


VisitorFactory = Callable[[int, Scheme], Visit]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # The driver runs an event loop in this thread, from which Django would refuse to use the database.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def world(transactional_db: None, cast: Cast) -> World:
    return create_world(cast)


@pytest.fixture
def visit_as_owner(chromium: Browser, live_server: LiveServer, world: World) -> Iterator[VisitorFactory]:
    """Alice at a screen of the given width. Afterwards nothing may have gone wrong."""
    visits: list[Visit] = []

    def start(width: int, scheme: Scheme = "light") -> Visit:
        client = Client()
        client.force_login(world.cast.alice, backend="django.contrib.auth.backends.ModelBackend")
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}])
        visit = Visit(context.new_page(), live_server.url)
        visit.page.on("console", visit.on_console)
        visit.page.on("pageerror", lambda error: visit.problems.append(f"{visit.page.url}: {error}"))
        visit.page.on("response", visit.on_response)
        visits.append(visit)
        return visit

    yield start
    for visit in visits:
        visit.page.context.close()
    problems = [problem for visit in visits for problem in visit.problems]
    assert problems == []
