"""Forms that are sent back with something else than an id where one is chosen: refused by field, and shown again."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tests.llmgateway.admin.world import World

pytestmark = pytest.mark.django_db

FIELDS = [
    (model, page.autocomplete_fields)
    for model, page in sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label)
    if page.autocomplete_fields
]
NO_IDS = ["abc", "1 OR 1=1", "-1", "9" * 30, "\u0663", "<script>"]


def _url(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_there_are_such_fields() -> None:
    assert {model._meta.model_name for model, _ in FIELDS} >= {"apikey", "ratelimit", "budget", "price", "deployment"}


@pytest.mark.parametrize(("model", "names"), FIELDS, ids=lambda value: getattr(value, "__name__", "fields"))
def test_what_is_no_id_is_a_mistake_of_its_field(owner: Client, world: World, model: Any, names: list[str]) -> None:
    # People get their groups once they are there.
    url = _url(model, "change", world.cast.alice.pk) if model is User else _url(model, "add")

    for value in NO_IDS:
        response = owner.post(url, dict.fromkeys(names, value))

        assert response.status_code == 200, value
        assert set(names) <= response.context["adminform"].form.errors.keys(), value


def test_what_is_no_id_in_a_row_below_is_a_mistake_too(owner: Client, world: World) -> None:
    form = {
        "name": "fresh", "strategy": "priority", "targets-TOTAL_FORMS": "1", "targets-INITIAL_FORMS": "0",
        "targets-0-deployment": "abc", "targets-0-weight": "1", "targets-0-position": "0", "limits-TOTAL_FORMS": "0",
        "limits-INITIAL_FORMS": "0", "budgets-TOTAL_FORMS": "0", "budgets-INITIAL_FORMS": "0",
        "rules-TOTAL_FORMS": "0", "rules-INITIAL_FORMS": "0", "fallbacks-TOTAL_FORMS": "0", "fallbacks-INITIAL_FORMS": "0",
    }  # fmt: skip

    response = owner.post(_url(type(world.alias), "add"), form)

    assert response.status_code == 200
    (targets,) = [
        each.formset for each in response.context["inline_admin_formsets"] if each.formset.prefix == "targets"
    ]
    assert "deployment" in targets.errors[0]


def test_what_was_chosen_is_still_chosen_when_the_form_comes_back(owner: Client, world: World) -> None:
    response = owner.post(_url(type(world.key), "add"), {"team": world.cast.platform.pk})

    assert f'value="{world.cast.platform.pk}" selected' in response.content.decode()


@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label)
def test_a_list_is_not_filtered_by_what_is_no_id(owner: Client, model: Any) -> None:
    for each in admin.site._registry[model].list_filter:
        if isinstance(each, tuple) and "Autocomplete" in each[1].__name__:
            response = owner.get(f"{_url(model, 'changelist')}?{each[0]}__id__exact=abc", follow=True)

            assert response.status_code == 200, each
