"""The settings that may change while the gateway runs, over the management API."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry

from llmgateway import conf as conf_module
from llmgateway.admin.system import GatewaySettingsAdmin
from llmgateway.models import ConfigChange, GatewaySettings
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db


def test_what_is_changed_is_what_is_read(operator: Caller, world: World) -> None:
    before = operator.get("/settings").json()
    changes = {
        "retry_attempts": 4, "circuit_mode": "log", "quota_status": 429, "vendor_models": {"openai": "small"},
        "default_input_price": "0.15", "default_output_price": "0.6", "default_request_price": "0.001",
    }  # fmt: skip

    response = operator.patch("/settings", changes)

    assert response.status_code == 200, response.json()
    assert response.json() == operator.get("/settings").json() == {**before, **changes}
    row = GatewaySettings.objects.get()
    assert (row.default_input_price, row.default_request_price) == (150_000, 1_000_000_000)
    assert "management API" in str(LogEntry.objects.get_for_object(row).first().additional_data)
    assert ConfigChange.objects.filter(table_name="llmgateway_gatewaysettings").exists()


def test_without_a_row_the_defaults_are_read_and_the_first_change_makes_it(operator: Caller) -> None:
    assert operator.get("/settings").json()["retry_attempts"] == 2
    assert not GatewaySettings.objects.exists()

    response = operator.patch("/settings", {"retry_attempts": 0}, If_Match=operator.get("/settings").headers["ETag"])

    assert response.status_code == 200
    assert GatewaySettings.objects.get().retry_attempts == 0


def test_all_that_the_admin_can_edit_can_be_written(operator: Caller, world: World) -> None:
    def names(part: Any) -> set[str]:
        return {part} if isinstance(part, str) else {name for each in part for name in names(each)}

    fields = {name for _, group in GatewaySettingsAdmin.fieldsets for name in names(group["fields"])}
    shown = operator.get("/settings").json()

    assert fields == shown.keys() - {"cache_generation", "from_environment"}
    written = operator.patch("/settings", {name: shown[name] for name in fields})
    assert (written.status_code, written.json()) == (200, shown)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"retry_factor": 0.5}, "retry_factor", "greater than or equal to 1"),
        ({"retry_attempts": -1}, "retry_attempts", "greater than or equal to 0"),
        ({"retry_attempts": 10**40}, "retry_attempts", "less than or equal to"),
        ({"circuit_mode": "maybe"}, "circuit_mode", "not a valid choice"),
        ({"circuit_open_s": 0}, "circuit_open_s", "greater than or equal to 0.1"),
        ({"default_input_price": "1"}, "default_output_price", "write both"),
        ({"default_input_price": 0.5}, "default_input_price", "Write the amount as text"),
        ({"default_input_price": "1000.1", "default_output_price": "1"}, "default_input_price", "surely a slip"),
        ({"chars_per_token_by_provider": {"openai": 0}}, "chars_per_token_by_provider", "from 0.1 to 1000"),
        ({"vendor_models": {"openai": 3}}, "vendor_models", "name of an alias"),
        ({"cache_generation": 9}, "cache_generation", "cannot be written"),
        ({"retries": 3}, "retries", "There is no such field"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(
    operator: Caller, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.patch("/settings", {"max_queued": 7, **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert not GatewaySettings.objects.filter(max_queued=7).exists()


def test_what_the_environment_decides_is_said(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**conf_module.conf.values, "MAX_RETRIES": "1"}
    monkeypatch.setattr(conf_module, "conf", conf_module.Conf(known))

    assert operator.get("/settings").json()["from_environment"] == {"retry_attempts": "MAX_RETRIES"}


def test_a_stale_change_is_refused(operator: Caller, world: World) -> None:
    seen = operator.get("/settings").headers["ETag"]
    operator.patch("/settings", {"max_queued": 7})

    assert operator.patch("/settings", {"max_queued": 8}, If_Match=seen).status_code == 412
    assert GatewaySettings.objects.get().max_queued == 7


def test_rights(caller: Callers, world: World) -> None:
    reader = caller("settings:read")

    assert reader.get("/settings").status_code == 200
    assert reader.patch("/settings", {"max_queued": 7}).status_code == 403
    assert caller("models:write").get("/settings").status_code == 403
    assert caller("settings:write").send("DELETE", "/settings").status_code == 405
    assert browser(world.cast.bob).get("/manage/api/v1/settings").status_code == 403
