"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client

from llmgateway.management_api.schema import STATUSES
from llmgateway.management_api.scopes import SCOPES
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import ROOT, Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db

PAGE = (Path(settings.BASE_DIR) / "docs" / "management-api.md").read_text()


@pytest.fixture
def schema(operator: Caller) -> dict[str, Any]:
    answer: dict[str, Any] = operator.get("/schema").json()
    return answer


def test_the_schema_is_valid_and_nothing_in_it_had_to_be_guessed(tmp_path: Path) -> None:
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(tmp_path / "schema.yaml"))

    assert "openapi: 3.1.0" in (tmp_path / "schema.yaml").read_text()


def test_the_schema_is_for_those_who_are_known(client: Client, caller: Callers) -> None:
    assert client.get(f"{ROOT}/schema").status_code == 401
    assert caller("models:read").get("/schema").status_code == 200


def test_every_operation_says_its_scope_and_its_errors(schema: dict[str, Any]) -> None:
    operations = [operation for path in schema["paths"].values() for operation in path.values()]

    needed = {re.search(r"Needs the scope `([a-z:]+)`", operation["description"])[1] for operation in operations}  # type: ignore[index]
    assert needed == set(SCOPES)
    for operation in operations:
        assert {"400", "401", "403", "429"} <= operation["responses"].keys()
        assert operation["summary"]
        assert {"token": []} in operation["security"]


@pytest.mark.parametrize("path", ["/keys/{id}", "/settings"])
def test_writes_of_one_row_take_an_entity_tag(schema: dict[str, Any], path: str) -> None:
    operation = schema["paths"][f"{ROOT}{path}"]["patch"]

    assert "If-Match" in [parameter["name"] for parameter in operation["parameters"]]
    assert "412" in operation["responses"]


def test_secrets_are_in_the_answers_that_make_them_alone(schema: dict[str, Any]) -> None:
    with_secret = {
        name for name, each in schema["components"]["schemas"].items() if "secret" in each.get("properties", {})
    }

    assert with_secret == {"KeyWithSecret", "NewKeyRequest", "CredentialRequest", "PatchedCredentialRequest"}
    answers = {name: each for name, each in schema["components"]["schemas"].items() if not name.endswith("Request")}
    assert [name for name, each in answers.items() if "secrets" in each.get("properties", {})] == []


def test_answers_are_as_the_schema_says(operator: Caller, schema: dict[str, Any], world: World) -> None:
    for path, name in (("keys", "Key"), ("limits", "Limit"), ("budgets", "Budget"), ("prices", "Price"),
                       ("usage", "UsageRow"), ("teams", "Team"), ("models", "Model"), ("reporters", "Reporter"), ("providers", "Provider"),
                       ("credentials", "Credential"), ("networks", "Network"), ("deployments", "Deployment"), ("memberships", "Membership"), ("sources", "Source")):  # fmt: skip
        [row, *_] = operator.get(f"/{path}").json()["results"]

        assert row.keys() == schema["components"]["schemas"][name]["properties"].keys(), name


def test_what_there_is_is_documented(schema: dict[str, Any]) -> None:
    paths = {path.removeprefix(ROOT) for path in schema["paths"]}
    actions = {path for path in paths if re.search(r"\}/(?!credits|increase)", path) and path != "/keys/{id}/rotate"}

    assert [path for path in paths - actions if f"`{path}`" not in PAGE] == []
    assert [path for path in actions if f"`/{path.rpartition('/')[2]}`" not in PAGE] == []
    assert [name for name in SCOPES if f"`{name}`" not in PAGE] == []
    assert [status for status in STATUSES if f"| {status} |" not in PAGE] == []


def test_the_page_sends_strangers_to_log_in(client: Client) -> None:
    response = client.get(f"{ROOT}/docs")

    assert response.status_code == 302
    assert response.headers["Location"] == f"/login/?next={ROOT}/docs"


def test_the_page_needs_no_network_and_no_inline_script(world: World) -> None:
    client = browser(world.cast.charlie)
    response = client.get(f"{ROOT}/docs")

    page = response.content.decode()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert "script-src 'self';" in response.headers["Content-Security-Policy"]
    assert scripts
    assert [inline for _, inline in scripts if inline.strip()] == []
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert [address for address in addresses if not address.startswith(("/static/", ROOT))] == []
    for address in addresses:
        if address.startswith("/static/"):
            assert finders.find(address.removeprefix("/static/")), address
    [own] = [address for address in addresses if address.startswith(ROOT)]
    assert json.dumps(f"{ROOT}/schema")[1:-1] in client.get(own).content.decode()


def test_what_is_tried_on_the_page_is_sent_with_the_csrf_token(world: World) -> None:
    alice = browser(world.cast.alice, enforce_csrf_checks=True)
    script = alice.get(f"{ROOT}/docs?script=").content.decode()
    header = re.search(r'headers\["(X-CSRF[^"]+)"\] = "([^"]+)"', script)
    assert header is not None

    response = alice.post(
        f"{ROOT}/keys/{world.key.pk}/disable", content_type="application/json", headers={header[1]: header[2]}
    )

    assert response.status_code == 200
