"""The record of changes: who, when, from where and what, without a secret."""

from __future__ import annotations

import json

import pytest
from auditlog.models import LogEntry
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.http import HttpResponse
from django.test import RequestFactory

from billing.models import Budget
from llmgateway import conf as conf_module
from llmgateway import services
from llmgateway.audit import CONFIGURATION, ActorMiddleware, acting_as, remote_address
from llmgateway.change_log import changes_of
from llmgateway.conf import Conf
from llmgateway.models import NetworkList, RateLimit, Team
from llmgateway.roles import ADMINS, AUDITORS
from providers.models import Credential, Provider
from tests.cast import Cast

OBSERVED = {
    "Alert", "ConfigChange", "DayMark", "Delivery", "JournalOffset", "KeptObject", "KeptTurn", "KeyDay", "Reconciliation", "ReporterState",
    "TeamDay", "TeamHour", "UsageRecord", "UsageRollup",
}  # fmt: skip


def test_every_configuration_model_is_recorded() -> None:
    ours = {
        model._meta.label
        for app in ("llmgateway", "providers", "billing")
        for model in apps.get_app_config(app).get_models()
        if model.__name__ not in OBSERVED
    }

    assert ours <= set(CONFIGURATION)


@pytest.mark.django_db
def test_a_change_records_who_through_what_and_the_difference(cast: Cast) -> None:
    with acting_as(cast.alice, source="command import_config"):
        cast.platform.time_zone = "Europe/Berlin"
        cast.platform.save()

    entry = LogEntry.objects.get_for_object(cast.platform).first()
    assert entry is not None
    assert entry.actor == cast.alice
    assert entry.additional_data == {"source": "command import_config"}
    assert entry.changes == {"time_zone": ["UTC", "Europe/Berlin"]}


@pytest.mark.django_db
def test_an_inner_actor_ends_with_its_block(cast: Cast) -> None:
    with acting_as(cast.alice, source="outer"):
        with acting_as(cast.bob, source="inner"):
            services.team_create(name="first")
        services.team_create(name="second")
    services.team_create(name="third")

    actors = {entry.object_repr: entry.actor for entry in LogEntry.objects.all()}
    assert (actors["first"], actors["second"], actors["third"]) == (cast.bob, cast.alice, None)


@pytest.mark.django_db
def test_secrets_and_digests_never_reach_the_record(cast: Cast) -> None:
    provider = Provider.objects.create(name="acme", adapter="openai_compatible", base_url="https://api.acme.example")
    credential = Credential(provider=provider)
    for secret in ("sk-upstream-one-0123456789", "sk-upstream-two-0123456789"):
        credential.set_secret(secret)
        credential.save()
    rotated = services.key_rotate(cast.platform_key)
    cast.bob.set_password("a new password of bob")
    cast.bob.save()

    record = json.dumps(list(LogEntry.objects.values("changes", "serialized_data", "object_repr")), default=str)
    for secret in (
        "sk-upstream", credential.encrypted_secret, rotated, cast.platform_secret, cast.platform_key.digest,
        cast.platform_key.previous_digest, cast.bob.password,
    ):  # fmt: skip
        assert secret not in record


@pytest.mark.django_db
def test_a_changed_secret_is_on_record_as_changed(cast: Cast) -> None:
    services.key_rotate(cast.platform_key)

    fields = {difference.field: difference for difference in changes_of(cast.platform_key, limit=1)[0].differences}
    assert (fields["digest"].before, fields["digest"].after) == ("(hidden)", "(hidden)")
    assert (fields["previous digest"].before, fields["previous digest"].after) == ("", "(hidden)")


@pytest.mark.django_db
def test_changes_of_the_parts_are_shown_with_the_whole(cast: Cast) -> None:
    office = NetworkList.objects.create(name="office")
    services.key_set_networks(cast.platform_key, [office])
    limit = RateLimit.objects.create(key=cast.platform_key, amount=60)
    Budget.objects.create(name="day", key=cast.platform_key, limit_pico_usd=5 * 10**12)
    limit.delete()
    services.key_set_networks(cast.platform_key, [])

    changes = changes_of(cast.platform_key, limit=10)

    assert [(change.verb, change.subject) for change in changes[:5]] == [
        ("Deleted", "network list office"),
        ("Deleted", "rate limit 60 requests per minute"),
        ("Created", "budget day: $5.00 per month"),
        ("Created", "rate limit 60 requests per minute"),
        ("Created", "network list office"),
    ]
    budget = {difference.field: difference.after for difference in changes[2].differences}
    assert (budget["limit"], budget["key"]) == ("$5.00", "platform-key")


@pytest.mark.django_db
def test_groups_of_a_person_are_on_record(cast: Cast) -> None:
    cast.bob.groups.add(Group.objects.get(name=AUDITORS))

    assert changes_of(cast.bob, limit=1)[0].differences[0].after == "Auditors"


@pytest.mark.django_db
def test_the_groups_come_with_their_rights() -> None:
    admins, auditors = Group.objects.get(name=ADMINS), Group.objects.get(name=AUDITORS)

    rights = set(admins.permissions.values_list("codename", flat=True))
    assert {"add_apikey", "change_credential", "delete_team", "view_usagerecord", "view_all_teams"} <= rights
    assert not {"change_user", "add_user", "change_group"} & rights
    read = set(auditors.permissions.values_list("codename", flat=True))
    assert {"view_apikey", "view_usagerecord", "view_logentry"} <= read
    assert all(name.startswith("view_") for name in read)


@pytest.mark.django_db
def test_a_page_records_the_person_and_the_address(cast: Cast) -> None:
    request = RequestFactory().post("/admin/llmgateway/team/add/", REMOTE_ADDR="192.0.2.7")
    request.user = cast.alice

    def view(_request: object) -> HttpResponse:
        services.team_create(name="new")
        return HttpResponse()

    ActorMiddleware(view)(request)

    entry = LogEntry.objects.get(object_repr="new")
    assert (entry.actor, entry.remote_addr, entry.actor_email) == (cast.alice, "192.0.2.7", "alice@example.org")
    assert entry.additional_data == {"source": "admin"}


@pytest.mark.django_db(transaction=True)
async def test_an_asynchronous_page_records_the_person_too() -> None:
    alice = await User.objects.acreate(username="alice", email="alice@example.org")
    request = RequestFactory().post("/team/", REMOTE_ADDR="2001:db8::7")
    request.user = alice

    async def view(_request: object) -> HttpResponse:
        await Team.objects.acreate(name="new")
        return HttpResponse()

    answer = ActorMiddleware(view)(request)
    assert not isinstance(answer, HttpResponse)
    await answer  # type: ignore[misc]

    entry = await LogEntry.objects.select_related("actor").aget(object_repr="new")
    assert (entry.actor, entry.remote_addr) == (alice, "2001:db8::7")
    assert entry.additional_data == {"source": "page"}


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        ("", "", "198.51.100.1"),
        ("", "192.0.2.7", "198.51.100.1"),
        ("198.51.100.0/24", "192.0.2.7", "192.0.2.7"),
        ("198.51.100.0/24", "203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ("198.51.100.0/24,192.0.2.7", "203.0.113.9, 192.0.2.7", "203.0.113.9"),
        ("198.51.100.0/24", "nonsense", "198.51.100.1"),
    ],
)
def test_the_address_comes_from_trusted_proxies_alone(
    monkeypatch: pytest.MonkeyPatch, trusted: str, forwarded: str, expected: str
) -> None:
    monkeypatch.setattr(conf_module, "conf", Conf({"TRUSTED_PROXIES": trusted}))
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    request = RequestFactory().get("/", REMOTE_ADDR="198.51.100.1", headers=headers)

    assert remote_address(request) == expected
