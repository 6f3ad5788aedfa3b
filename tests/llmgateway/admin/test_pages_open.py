"""Every page of the admin opens: with rows, to those who may see them, and to nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from tests.llmgateway.admin.world import World

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
pytestmark = pytest.mark.django_db


def _list_url(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def _page_url(instance: Any, page: str = "change") -> str:
    return reverse(f"admin:{instance._meta.app_label}_{instance._meta.model_name}_{page}", args=[instance.pk])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_lists_open_and_search(owner: Client, model: Any) -> None:
    for query in ("", "?q=nothing-like-this"):
        response = owner.get(_list_url(model) + query, follow=True)

        assert response.status_code == 200


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_pages_to_add_open_where_adding_is_possible(owner: Client, model: Any) -> None:
    response = owner.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add"))

    request: Any = response.wsgi_request
    assert response.status_code == (200 if admin.site._registry[model].has_add_permission(request) else 403)


def test_pages_and_histories_of_objects_open(owner: Client, world: World) -> None:
    for instance in world.objects():
        for page in ("change", "history"):
            response = owner.get(_page_url(instance, page))

            assert response.status_code == 200, f"{page} of {instance!r}"
            assert str(instance) in response.content.decode() or instance._meta.model_name == "gatewaysettings"


def test_an_auditor_reads_everything_and_can_save_nothing(auditor: Client, world: World) -> None:
    for instance in world.objects():
        response = auditor.get(_page_url(instance))

        assert response.status_code == 200, repr(instance)
        assert 'name="_save"' not in response.content.decode(), repr(instance)
        assert auditor.post(_page_url(instance), {"name": "changed"}).status_code == 403, repr(instance)


def test_an_auditor_sees_no_password_hash(auditor: Client, world: World) -> None:
    response = auditor.get(_page_url(world.cast.bob))

    assert world.cast.bob.password not in response.content.decode()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_who_has_no_permission_sees_no_list(newcomer: Client, model: Any) -> None:
    assert newcomer.get(_list_url(model)).status_code == 403


def test_who_has_no_permission_sees_no_object_and_no_figures(newcomer: Client, world: World) -> None:
    for instance in world.objects():
        assert newcomer.get(_page_url(instance)).status_code == 403, repr(instance)
        assert newcomer.get(_page_url(instance, "history")).status_code == 403, repr(instance)
    index = newcomer.get(reverse("admin:index")).content.decode()
    assert "requests today" not in index
    assert world.key.name not in index


@pytest.mark.parametrize("page", ["rotate_key", "disable_key", "enable_key", "revoke_key"])
def test_who_may_only_read_cannot_act_on_keys(auditor: Client, world: World, page: str) -> None:
    url = reverse(f"admin:llmgateway_apikey_{page}", args=[world.key.pk])

    assert auditor.get(url).status_code == 403
    assert auditor.post(url, {"grace_hours": "0"}).status_code == 403


def test_a_member_who_is_not_staff_is_sent_to_log_in(world: World) -> None:
    client = Client()
    client.force_login(world.cast.bob, backend="django.contrib.auth.backends.ModelBackend")

    response = client.get(reverse("admin:llmgateway_apikey_changelist"))

    assert response.status_code == 302
    assert "/login" in response.headers["Location"]


def test_the_first_page_says_what_there_is_and_what_it_did(owner: Client, world: World) -> None:
    page = owner.get(reverse("admin:index")).content.decode()

    assert "requests today" in page
    assert "$0.00027" in page
    assert "To serve the first request" not in page


def test_the_first_page_of_an_empty_gateway_says_what_to_add(admin_client: Client) -> None:
    page = admin_client.get(reverse("admin:index")).content.decode()

    assert "Add a provider and its credential" in page
    assert "Create an API key" in page


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (("llmgateway", "apikey", "team"), "platform"),
        (("llmgateway", "membership", "user"), "alice"),
        (("providers", "aliastarget", "deployment"), "acme-small"),
        (("providers", "deployment", "credential"), "acme/main"),
        (("billing", "price", "provider"), "acme"),
        (("billing", "budget", "key"), "platform-key"),
    ],
)
def test_fields_that_search_while_typing_find_something(
    owner: Client, newcomer: Client, world: World, field: tuple[str, str, str], expected: str
) -> None:
    query = dict(zip(("app_label", "model_name", "field_name"), field, strict=True)) | {"term": expected[:4]}

    found = owner.get(reverse("admin:autocomplete"), query).json()["results"]

    assert expected in [item["text"] for item in found]
    assert newcomer.get(reverse("admin:autocomplete"), query).status_code == 403
