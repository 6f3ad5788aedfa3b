"""The management API in the browser: its documentation, and its tokens."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from llmgateway.management_api.tokens import token_create, token_of
from tests.browser.conftest import Scheme, VisitorFactory
from tests.llmgateway.admin.world import World

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_the_documentation_is_drawn_under_the_content_security_policy(
    visit_as_owner: VisitorFactory, world: World
) -> None:
    """What the policy forbids would stand on the console, and what is on the console fails the test."""
    visit = visit_as_owner(1280, "light")
    outside: list[str] = []
    visit.page.on(
        "request", lambda request: None if request.url.startswith(visit.origin) else outside.append(request.url)
    )
    page = visit.open("/manage/api/v1/docs")

    page.click("[data-path='/manage/api/v1/keys/{id}/rotate']")

    expect(page.locator("text=Needs the scope keys:write.").first).to_be_visible()
    assert [address for address in outside if not address.startswith("data:")] == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_pages_of_tokens_open_without_a_complaint_and_fit(
    visit_as_owner: VisitorFactory, world: World, width: int, scheme: Scheme
) -> None:
    token, _ = token_create(name="ci", scopes=["keys:write", "usage:read"])
    visit = visit_as_owner(width, scheme)

    for page in ("", "add/", f"{token.pk}/change/", f"{token.pk}/revoke/"):
        visit.open(f"/admin/management_api/managementtoken/{page}")

        assert visit.overflow() <= 0, f"{page} is too wide for {width} pixels"


def test_a_token_is_made_and_copied(visit_as_owner: VisitorFactory, world: World) -> None:
    visit = visit_as_owner(1280, "light")
    page = visit.open("/admin/management_api/managementtoken/add/")
    page.fill("[name=name]", "ci")
    page.check("[value='keys:read']")
    page.click("button[name=_save]")

    token = token_of(page.inner_text("#secret"))

    assert token is not None
    assert token.scopes == ["keys:read"]
