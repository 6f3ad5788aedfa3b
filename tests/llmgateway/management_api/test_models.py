"""Model aliases over the management API: what may be written, with the same checks as in the admin."""

from __future__ import annotations

from typing import Any

import pytest

from llmgateway.models import GatewaySettings
from providers.models import AliasTarget, ModelAlias
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller, Callers


@pytest.fixture
def cheap(world: World) -> ModelAlias:
    return ModelAlias.objects.create(name="cheap")


def _path(world: World) -> str:
    return f"/models/{world.alias.pk}"


def test_what_is_written_is_what_is_read(operator: Caller, world: World, cheap: ModelAlias) -> None:
    body = {
        "strategy": "lowest_cost", "sticky": "key", "parameter_defaults": {"temperature": 0.5},
        "parameter_overrides": {"seed": None}, "first_token_timeout_s": 1.5, "retry_attempts": 0, "cache_ttl_s": 60,
        "hedge_max_usd": "0.01", "mirror_alias": "cheap", "mirror_percent": 2.5,
        "rules": [{"name": "long", "when": "request.input_tokens > 100", "use": "cheap", "enabled": True}],
        "fallbacks": [{"cause": "error", "use": "cheap"}, {"cause": "content_policy", "use": "cheap"}],
    }  # fmt: skip

    response = operator.patch(_path(world), body)

    assert response.status_code == 200, response.json()
    assert {name: response.json()[name] for name in body} == body
    assert {name: operator.get(_path(world)).json()[name] for name in body} == body
    alias = ModelAlias.objects.get(name="small")
    assert (alias.hedge_max_pico_usd, alias.mirror_alias) == (10_000_000_000, cheap)


def test_targets_take_the_place_of_those_that_are_there(operator: Caller, world: World, cheap: ModelAlias) -> None:
    kept = world.alias.targets.get()
    targets = [{"alias": "cheap", "canary_percent": 5}, {"deployment": "acme-small", "weight": 7}]

    shown = operator.patch(_path(world), {"targets": targets}).json()["targets"]

    assert [(each["deployment"], each["alias"], each["weight"], each["canary_percent"]) for each in shown] == [
        (None, "cheap", 1, 5), ("acme-small", None, 7, 0),
    ]  # fmt: skip
    assert world.alias.targets.get(deployment=world.deployment).pk == kept.pk
    assert operator.patch(_path(world), {"targets": []}).json()["targets"] == []


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"strategy": "by_mood"}, "strategy", "not a valid choice"),
        ({"parameter_overrides": {"model": "x"}}, "parameter_overrides", "model cannot be set here"),
        ({"parameter_overrides": [1]}, "parameter_overrides", "dictionary"),
        ({"retry_attempts": 21}, "retry_attempts", "less than or equal to 20"),
        ({"first_token_timeout_s": 0}, "first_token_timeout_s", "greater than or equal to 0.001"),
        ({"cache_ttl_s": 60, "cache_mode": "semantic"}, "cache_embeddings", "Choose the alias"),
        ({"mirror_alias": "cheap"}, "mirror_percent", "Say how many percent"),
        ({"mirror_alias": "nope"}, "mirror_alias", "There is no nope here"),
        ({"mirror_alias": "small", "mirror_percent": 1}, "mirror_alias", "small → small is a circle"),
        ({"hedge_max_usd": 0.5}, "hedge_max_usd", "Write the amount as text"),
        ({"cache_generation": 5}, "cache_generation", "This cannot be written"),
        ({"rules": [{"name": "r", "when": "request.nope", "use": "cheap"}]}, "rules", "There is no `request.nope`"),
        ({"rules": [{"name": "r", "when": "true", "use": "cheap", "colour": 1}]}, "rules", "There is no such field"),
        ({"rules": [{"name": "r", "when": "true", "use": "cheap"}] * 2}, "rules", "1: "),
        ({"fallbacks": [{"use": "small"}]}, "fallbacks", "0: small → small is a circle"),
        ({"targets": [{"alias": "cheap", "heft": 5}]}, "targets", "There is no such field"),
        ({"targets": [{"weight": 1}]}, "targets", "0: Choose a deployment or an alias"),
        ({"targets": [{"alias": "cheap", "canary_percent": 101}]}, "targets", "less than or equal to 100"),
    ],
)
@pytest.mark.usefixtures("cheap")
def test_what_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    before = operator.get(_path(world)).json()

    response = operator.patch(_path(world), body)

    error = response.json()["error"]
    assert response.status_code == 400, response.json()
    assert error["param"].startswith(field)
    assert message in error["message"]
    assert operator.get(_path(world)).json() == before


def test_a_circle_names_its_chain(operator: Caller, world: World, cheap: ModelAlias) -> None:
    AliasTarget.objects.create(alias=cheap, target_alias=world.alias)

    error = operator.patch(_path(world), {"fallbacks": [{"use": "cheap"}]}).json()["error"]

    assert "small → cheap → small is a circle: no alias may lead back to itself." in error["message"]
    assert not world.alias.fallbacks.exists()


def test_kept_answers_of_one_model_are_forgotten(operator: Caller, world: World, cheap: ModelAlias) -> None:
    shown = operator.post(f"{_path(world)}/purge-cache").json()

    assert shown["cache_generation"] == 1
    assert ModelAlias.objects.get(name="cheap").cache_generation == 0


def test_kept_answers_of_all_are_forgotten(operator: Caller, world: World) -> None:
    assert operator.post("/models/purge-cache").status_code == 204

    assert GatewaySettings.objects.get().cache_generation == 1


@pytest.mark.parametrize("path", ["/models/purge-cache", "/models/{id}/purge-cache"])
def test_who_only_reads_models_forgets_nothing(caller: Callers, world: World, path: str) -> None:
    answer = caller("models:read").post(path.format(id=world.alias.pk))

    assert answer.status_code == 403
    assert GatewaySettings.objects.get().cache_generation == 0


class TestCreating:
    def test_what_is_created_is_what_is_read(self, operator: Caller, world: World, cheap: ModelAlias) -> None:
        body = {
            "name": "fresh", "strategy": "priority", "cache_ttl_s": 60, "hedge_max_usd": "0.01", "mirror_alias": "cheap",
            "mirror_percent": 2.5, "fallbacks": [{"cause": "rate_limit", "use": "cheap"}],
            "rules": [{"name": "long", "when": "request.input_tokens > 100", "use": "cheap", "enabled": True}],
        }  # fmt: skip

        response = operator.post("/models", {**body, "targets": [{"deployment": "acme-small"}, {"alias": "small"}]})

        shown = response.json()
        assert response.status_code == 201, shown
        assert {name: shown[name] for name in body} == body
        assert [each["deployment"] or each["alias"] for each in shown["targets"]] == ["acme-small", "small"]
        assert operator.get(f"/models/{shown['id']}").json() == shown
        assert ModelAlias.objects.get(name="fresh").hedge_max_pico_usd == 10_000_000_000

    @pytest.mark.parametrize(
        ("body", "field", "message"),
        [
            ({}, "name", "This field is required"),
            ({"name": "small"}, "name", "already exists"),
            ({"name": "a b\n"}, "name", "name"),
            ({"name": "x", "strategy": "by_mood"}, "strategy", "not a valid choice"),
            ({"name": "x", "id": 7}, "id", "This cannot be written"),
            ({"name": "x", "mirror_alias": "small"}, "mirror_percent", "Say how many percent"),
            (
                {"name": "x", "rules": [{"name": "r", "when": "1 +", "use": "small"}]},
                "rules.0.when",
                "This is not an expression",
            ),
            ({"name": "x", "fallbacks": [{"cause": "mood", "use": "small"}]}, "fallbacks", "not a valid choice"),
            ({"name": "x", "targets": [{"alias": "x"}]}, "targets.0.alias", "There is no x here"),
            ({"name": "x", "targets": [{"alias": "small", "canary_percent": 60}] * 2}, "targets", "1: "),
        ],
    )
    def test_what_makes_no_sense_leaves_nothing_behind(
        self, operator: Caller, world: World, body: dict[str, Any], field: str, message: str
    ) -> None:
        response = operator.post("/models", body)

        error = response.json()["error"]
        assert response.status_code == 400, response.json()
        assert (error["param"] or "").startswith(field)
        assert message in error["message"]
        assert [alias.name for alias in ModelAlias.objects.all()] == ["small"]

    def test_a_model_is_renamed(self, operator: Caller, world: World, cheap: ModelAlias) -> None:
        assert operator.patch(_path(world), {"name": "smaller"}).json()["name"] == "smaller"
        assert operator.patch(_path(world), {"name": "cheap"}).json()["error"]["param"] == "name"


class TestDeleting:
    def test_it_goes_with_its_parts(self, operator: Caller, world: World) -> None:
        assert operator.delete(_path(world)).status_code == 204

        assert not ModelAlias.objects.exists()
        assert not AliasTarget.objects.exists()

    def test_what_others_lead_to_stays_and_they_are_named(
        self, operator: Caller, world: World, cheap: ModelAlias
    ) -> None:
        AliasTarget.objects.create(alias=cheap, target_alias=world.alias)
        ModelAlias.objects.create(name="shadowed", mirror_alias=world.alias, mirror_percent=1)

        response = operator.delete(_path(world))

        assert response.status_code == 409
        assert "by model alias shadowed, the alias target of cheap" in response.json()["error"]["message"]
        assert ModelAlias.objects.filter(name="small").exists()

    def test_it_stays_if_it_was_changed_meanwhile(self, operator: Caller, world: World) -> None:
        assert operator.send("DELETE", _path(world), If_Match='"old"').status_code == 412

        assert ModelAlias.objects.filter(name="small").exists()


@pytest.mark.parametrize(("method", "path"), [("POST", "/models"), ("PATCH", "/models/{}"), ("DELETE", "/models/{}")])
def test_who_only_reads_models_writes_none(caller: Callers, world: World, method: str, path: str) -> None:
    answer = caller("models:read").send(method, path.format(world.alias.pk), {"name": "x"})

    assert (answer.status_code, [alias.name for alias in ModelAlias.objects.all()]) == (403, ["small"])


class TestKeys:
    def test_rank_and_tenants_are_written(self, operator: Caller, world: World) -> None:
        body = {"priority": 5, "may_bypass_health": True, "tenants": ["research"]}

        created = operator.post("/keys", {"name": "fresh", "team": "platform", **body})
        changed = operator.patch(f"/keys/{world.key.pk}", body)

        for answer in (created, changed):
            assert {name: answer.json()[name] for name in body} == body, answer.json()
        assert operator.patch(f"/keys/{world.key.pk}", {"tenants": []}).json()["tenants"] == []

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"tenants": ["research"]}, "tenants"),
            ({"priority": 5}, "priority"),
            ({"may_bypass_health": True}, "may_bypass_health"),
        ],
    )
    def test_a_team_gives_its_keys_no_advantage_over_others(
        self, caller: Callers, world: World, body: dict[str, Any], field: str
    ) -> None:
        of_platform = caller("keys:write", team=world.cast.platform)

        answer = of_platform.patch(f"/keys/{world.key.pk}", body)

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert of_platform.patch(f"/keys/{world.key.pk}", {"priority": 0, "user_id": "x"}).status_code == 200
