"""Key sources and the catalogue over the management API."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry

from llmgateway.models import AuthSource, ConfigChange
from providers.models import CatalogueEntry
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db

FILE = {"name": "hosts", "kind": "static_file", "path": "/etc/gateway/keys.yaml"}


def test_the_first_file_stands_behind_the_database(operator: Caller) -> None:
    made = operator.post("/sources", {**FILE, "position": 1})

    assert (made.status_code, made.json()) == (201, {**FILE, "id": made.json()["id"], "position": 1, "enabled": True})
    assert [row["name"] for row in operator.get("/sources").json()["results"]] == ["database", "hosts"]
    row = AuthSource.objects.get(name="hosts")
    assert "management API" in str(LogEntry.objects.get_for_object(row).get().additional_data)
    assert ConfigChange.objects.filter(table_name="llmgateway_authsource").exists()


def test_a_source_is_moved_switched_off_and_deleted(operator: Caller) -> None:
    path = f"/sources/{operator.post('/sources', FILE).json()['id']}"

    changed = operator.patch(path, {"position": 7, "enabled": False})

    assert (changed.json()["position"], changed.json()["enabled"]) == (7, False)
    assert operator.get("/sources?enabled=false").json()["count"] == 1
    assert operator.delete(path).status_code == 204
    assert not AuthSource.objects.filter(name="hosts").exists()


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"path": ""}, "path", "needs the path of its file"),
        ({"name": "my hosts"}, "name", "not a usable name"),
        ({"name": "database"}, "name", "already exists"),
        ({"kind": "ldap"}, "kind", "not a valid choice"),
        ({"position": -1}, "position", "greater than or equal to 0"),
        ({"url": "x"}, "url", "There is no such field"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/sources", {**FILE, **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert AuthSource.objects.count() == 1


def test_what_is_said_of_a_model_is_somebody_s_own(operator: Caller, world: World) -> None:
    known = CatalogueEntry.objects.create(provider=world.provider, model="small-1", tools=True, source="installed 1")

    made = operator.post(
        "/catalogue", {"provider": "acme", "model": "small-2", "context_window": 8_000, "input_modalities": ["text"]}
    )
    changed = operator.patch(f"/catalogue/{known.pk}", {"max_output_tokens": 100})

    assert made.status_code == 201
    assert made.json() == {
        "id": made.json()["id"], "provider": "acme", "model": "small-2", "context_window": 8_000, "max_output_tokens": None,
        "input_modalities": ["text"], "output_modalities": [], "tools": None, "reasoning": None, "deprecated_on": None,
        "source": "",
    }  # fmt: skip
    assert (changed.json()["source"], changed.json()["tools"], changed.json()["max_output_tokens"]) == ("", True, 100)
    assert "management API" in str(LogEntry.objects.get_for_object(known).first().additional_data)
    assert ConfigChange.objects.filter(table_name="providers_catalogueentry", row_id=known.pk).exists()
    models = operator.get("/models").json()["results"]
    assert models[0]["targets"][0]["capabilities"]["max_output_tokens"] == 100
    assert operator.delete(f"/catalogue/{known.pk}").status_code == 204


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"model": "small-1"}, "model", "has acme/small-1 already"),
        ({"provider": "none"}, "provider", "There is no none here"),
        ({"context_window": 5, "max_output_tokens": 6}, "max_output_tokens", "more than its context window"),
        ({"context_window": 0}, "context_window", "greater than or equal to"),
        ({"input_modalities": ["smell"]}, "input_modalities", "Write a list of text, image"),
        ({"input_modalities": ["text", "text"]}, "input_modalities", "Name each kind once"),
        ({"source": "me"}, "source", "cannot be written"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    CatalogueEntry.objects.create(provider=world.provider, model="small-1")

    response = operator.post("/catalogue", {"provider": "acme", "model": "small-2", **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert CatalogueEntry.objects.count() == 1


def test_own_entries_are_told_apart(operator: Caller, world: World) -> None:
    for number, source in enumerate(("", "installed 1")):
        CatalogueEntry.objects.create(provider=world.provider, model=f"m{number}", source=source)

    def models(query: str) -> list[str]:
        return [row["model"] for row in operator.get(f"/catalogue?{query}").json()["results"]]

    assert (models("own=true"), models("own=false"), models("search=m")) == (["m0"], ["m1"], ["m0", "m1"])


def test_a_list_of_entries_costs_a_few_queries(
    operator: Caller, world: World, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        CatalogueEntry.objects.create(provider=world.provider, model=f"m{number}")

    with django_assert_max_num_queries(10):
        assert operator.get("/catalogue").json()["count"] == 30


@pytest.mark.parametrize("kind", ["sources", "catalogue"])
def test_rights(caller: Callers, world: World, kind: str) -> None:
    entry = CatalogueEntry.objects.create(provider=world.provider, model="small-1")
    row = AuthSource.objects.get() if kind == "sources" else entry
    reader, path = caller(f"{kind}:read"), f"/{kind}/{row.pk}"

    assert reader.get(path).status_code == 200
    answers = [reader.post(f"/{kind}", {}), reader.patch(path, {}), reader.delete(path), caller("keys:write").get(path)]
    assert {answer.status_code for answer in answers} == {403}
    assert browser(world.cast.bob).get(f"/manage/api/v1{path}").status_code == 403
