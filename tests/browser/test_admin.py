"""The admin as people see it: it works, fits a telephone, and keeps to its content security policy."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.urls import reverse
from playwright.sync_api import expect

from billing.models import UsageRecord
from llmgateway.key_secrets import digest
from llmgateway.models import ApiKey
from llmgateway.services import newest_pepper
from providers.models import ModelAlias
from tests.browser.conftest import Scheme, VisitorFactory
from tests.llmgateway.admin.world import World, create_record

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LISTS = (
    "llmgateway_apikey", "llmgateway_team", "llmgateway_networklist", "llmgateway_ratelimit", "providers_modelalias",
    "providers_deployment", "providers_provider", "providers_credential", "billing_price", "billing_budget",
    "billing_usagerecord", "auditlog_logentry", "auth_user",
)  # fmt: skip
PAGES = ("/admin/billing/usagerecord/mirrors/", "/admin/providers/deployment/health/")
ROWS_TOO_WIDE = """Array.from(document.querySelectorAll(".inline-related .simplebar-content-wrapper"))
    .filter((rows) => innerWidth < 640 && rows.scrollWidth > rows.clientWidth + 1)
    .map((rows) => rows.closest("[id$=-group]").id)"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_open_without_a_complaint_and_fit(
    visit_as_owner: VisitorFactory, world: World, width: int, scheme: Scheme
) -> None:
    visit = visit_as_owner(width, scheme)
    cheap = ModelAlias.objects.create(name="cheap")
    world.alias.rules.create(
        name="long-requests", when="request.input_tokens > 100_000 && !request.has_images", use=cheap
    )
    world.alias.fallbacks.create(use=cheap, cause="context_too_long")
    objects = [
        reverse(f"admin:{instance._meta.app_label}_{instance._meta.model_name}_change", args=[instance.pk])
        for instance in world.objects()
    ]
    lists = [reverse(f"admin:{name}_changelist") for name in LISTS]
    copy = create_record(world.key, record_id="req-1_mir", mirror_of=world.record.pk)
    UsageRecord.objects.filter(pk=copy.pk).update(key_id="mirror", key_name="mirror", alias="cheap")

    for path in ("/admin/", *lists, *PAGES, *objects, "/admin/llmgateway/apikey/add/"):
        page = visit.open(path)

        assert visit.overflow() <= 0, f"{path} is too wide for {width} pixels"
        assert page.evaluate(ROWS_TOO_WIDE) == [], f"{path} has rows that are too wide for {width} pixels"


def test_a_key_is_created_copied_and_gone_after_a_reload(visit_as_owner: VisitorFactory, world: World) -> None:
    visit = visit_as_owner(1280, "light")
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open("/admin/llmgateway/apikey/add/")
    page.fill("[name=name]", "from-the-browser")
    page.click(".field-team .select2-selection")
    page.click(".select2-results__option >> text=platform")
    page.click("text=Add another Rate limit")
    page.fill("[name=limits-0-amount]", "60")
    page.click("button[name=_save]")

    secret = page.inner_text("#secret")
    page.click("[data-copy=secret]")

    expect(page.locator("[data-copied]")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    key = ApiKey.objects.get(name="from-the-browser")
    assert key.digest == digest(secret.encode(), newest_pepper()).hex()
    assert key.limits.get().amount == 60
    page.click("text=I have copied it")
    page.wait_for_load_state("networkidle")
    assert secret not in page.content()


def test_a_key_is_revoked_after_a_question(visit_as_owner: VisitorFactory, world: World) -> None:
    visit = visit_as_owner(390, "light")
    page = visit.open(reverse("admin:llmgateway_apikey_revoke_key", args=[world.key.pk]))

    page.click("text=Revoke for good")
    page.wait_for_load_state("networkidle")

    expect(page.locator("body")).to_contain_text(f"{world.key.name} is revoked.")
    world.key.refresh_from_db()
    assert world.key.revoked_at is not None


def test_a_target_is_added_to_an_alias(visit_as_owner: VisitorFactory, world: World) -> None:
    visit = visit_as_owner(1280, "dark")
    page = visit.open("/admin/providers/modelalias/add/")
    page.fill("[name=name]", "coder")
    page.click("text=Add another Target")
    page.click(".field-deployment .select2-selection >> visible=true")
    page.click(".select2-results__option >> text=acme-small")
    page.fill("[name=targets-0-weight]", "5")
    page.click("button[name=_save]")
    page.wait_for_load_state("networkidle")

    expect(page.locator("#result_list")).to_contain_text("acme-small 100 %")


def test_who_made_a_mistake_is_taken_to_it(visit_as_owner: VisitorFactory, world: World) -> None:
    visit = visit_as_owner(390, "light")
    page = visit.open(reverse("admin:providers_modelalias_change", args=[world.alias.pk]))
    page.fill("[name=targets-0-weight]", "0")
    page.evaluate("document.querySelector('#modelalias_form').noValidate = true")
    page.click("button[name=_save]")

    weight = page.locator("[name=targets-0-weight]")
    expect(weight).to_be_focused()
    expect(weight).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_out(visit_as_owner: VisitorFactory, world: World, scheme: Scheme) -> None:
    """No finding of axe that is serious or worse."""
    visit = visit_as_owner(1280, scheme)
    key = reverse("admin:llmgateway_apikey_change", args=[world.key.pk])

    for path in (
        "/admin/",
        key,
        "/admin/llmgateway/apikey/",
        "/admin/billing/price/add/",
        "/admin/billing/usagerecord/",
        *PAGES,
    ):
        page = visit.open(path)
        page.wait_for_timeout(200)  # The library makes its selects after the page has loaded.

        found = [
            f"{finding['id']}: {node['html']}"
            for finding in Axe().run(page).response["violations"]
            if finding["impact"] in {"serious", "critical"}
            for node in finding["nodes"]
        ]
        assert found == [], path
