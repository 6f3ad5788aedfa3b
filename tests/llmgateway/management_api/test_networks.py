"""Network lists over the management API."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from pytest_django import DjangoAssertNumQueries

from llmgateway.models import ConfigChange, NetworkList
from llmgateway.services import key_create
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db


def test_a_list_is_made_named_by_a_key_and_changed(operator: Caller, world: World) -> None:
    made = operator.post("/networks", {"name": "lab", "networks": ["192.0.2.7", "2001:db8::/32"]})
    path = f"/networks/{made.json()['id']}"
    operator.patch(f"/keys/{world.key.pk}", {"network_lists": ["lab"]})
    changed = operator.patch(path, {"networks": []})

    assert (made.status_code, made.json()["keys"]) == (201, 0)
    assert changed.json() == {**made.json(), "networks": [], "keys": 1}
    assert operator.get(path).json() == changed.json()
    row = NetworkList.objects.get(name="lab")
    sources = [entry.additional_data for entry in LogEntry.objects.get_for_object(row)]
    assert len([source for source in sources if "management API" in str(source)]) == 2
    assert ConfigChange.objects.filter(table_name="llmgateway_networklist", row_id=row.pk).exists()


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "office"}, "name", "already exists"),
        ({"name": "my office"}, "name", "not a usable name"),
        ({"networks": ["10.0.0.0/8", "10.0.0.300"]}, "networks", "10.0.0.300 is not an address or network"),
        ({"networks": ["10.0.0.1/8"]}, "networks", "has host bits set"),
        ({"networks": "10.0.0.0/8"}, "networks", "list"),
        ({"networks": None}, "networks", "may not be null"),
        ({"network": []}, "network", "There is no such field"),
        ({"keys": 3}, "keys", "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/networks", {"name": "lab", "networks": [], **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert NetworkList.objects.count() == 1


def test_a_new_list_says_its_networks(operator: Caller) -> None:
    response = operator.post("/networks", {"name": "lab"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "networks")


def test_a_list_that_a_key_names_cannot_be_deleted(operator: Caller, world: World) -> None:
    path = f"/networks/{world.office.pk}"

    refused = operator.delete(path)
    operator.patch(f"/keys/{world.key.pk}", {"network_lists": []})

    assert refused.status_code == 409
    assert refused.json()["error"]["message"] == (
        "It is still in use by API key platform-key, so it cannot be deleted. Change that first."
    )
    assert operator.delete(path).status_code == 204
    assert not NetworkList.objects.exists()


def test_those_who_name_a_list_are_read_together(
    operator: Caller, world: World, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(20):
        key_create(team=world.cast.platform, name=f"more-{number}", networks=[world.office])

    with django_assert_max_num_queries(20):
        message = operator.delete(f"/networks/{world.office.pk}").json()["error"]["message"]

    assert "API key more-0, API key more-1, API key more-10" in message
    assert "and 16 more" in message


def test_a_stale_change_is_refused(operator: Caller, world: World) -> None:
    path = f"/networks/{world.office.pk}"
    seen = operator.get(path).headers["ETag"]
    operator.patch(path, {"networks": ["192.0.2.1"]})

    assert operator.patch(path, {"networks": []}, If_Match=seen).status_code == 412


def test_rights(caller: Callers, world: World) -> None:
    reader, path = caller("networks:read"), f"/networks/{world.office.pk}"

    assert [row["name"] for row in reader.get("/networks?search=off").json()["results"]] == ["office"]
    answers = [reader.post("/networks", {}), reader.patch(path, {"networks": []}), reader.delete(path)]
    assert {answer.status_code for answer in [*answers, caller("keys:write").get(path)]} == {403}
    assert browser(world.cast.bob).get(f"/manage/api/v1{path}").status_code == 403
