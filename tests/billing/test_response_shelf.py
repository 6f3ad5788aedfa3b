"""Conversations that the gateway keeps in the database: found by any response of them, and gone in time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import response_shelf, tasks
from billing.models import KeptTurn
from billing.response_shelf import conversation, delete_old_responses, last, put
from llmgateway import conf as conf_module
from llmgateway.celery import app
from llmgateway.conf import Conf
from llmgateway.pipeline.errors import RequestTooLargeError
from llmgateway.pipeline.protocols import KeptResponse, Owner

ALICE = Owner("", 3, "1")
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def using(request: pytest.FixtureRequest) -> str:
    """The alias of an empty database."""
    if request.param == "sqlite":
        request.getfixturevalue("db")
        return "default"
    return str(request.getfixturevalue("postgres"))


def keep(using: str, name: str, previous: str = "", size: int = 10) -> None:
    put(KeptResponse(name, ALICE, previous, f"packed {name}".encode(), size), using=using)


def way(using: str, name: str, most_bytes: int = 1000) -> list[str]:
    return [each.id for each in conversation(name, since=timezone.now() - HOUR, most_bytes=most_bytes, using=using)]


def test_a_conversation_is_what_led_to_a_response(using: str) -> None:
    for name, previous in [("a", ""), ("b", "a"), ("c", "b"), ("other", "a"), ("elsewhere", "")]:
        keep(using, name, previous)

    assert way(using, "c") == ["a", "b", "c"]
    assert way(using, "other") == ["a", "other"]
    [_, _, kept] = conversation("c", since=timezone.now() - HOUR, most_bytes=30, using=using)
    assert kept == KeptResponse("c", ALICE, "b", b"packed c", 10)
    assert KeptTurn.objects.using(using).get(response_id="c").thread_id == "a"


def test_one_response_is_found_with_what_was_said_or_without(using: str) -> None:
    keep(using, "a")
    since = timezone.now() - HOUR

    assert last("a", since=since, using=using) == KeptResponse("a", ALICE, "", b"", 10)
    full = last("a", since=since, with_content=True, using=using)
    assert full is not None
    assert full.packed == b"packed a"
    assert last("b", since=since, using=using) is None


def test_a_conversation_without_one_of_its_responses_is_none(using: str) -> None:
    for name, previous in [("a", ""), ("b", "a"), ("c", "b")]:
        keep(using, name, previous)
    KeptTurn.objects.using(using).filter(response_id="b").delete()

    assert way(using, "c") == []
    assert way(using, "a") == ["a"]
    assert way(using, "never") == []


def test_no_conversation_leads_back_to_itself(using: str) -> None:
    keep(using, "a", "b")
    keep(using, "b", "a")

    assert way(using, "b") == []


def test_one_that_is_too_large_is_not_even_read(using: str) -> None:
    keep(using, "a", size=600)
    keep(using, "b", "a", size=600)

    with pytest.raises(RequestTooLargeError):
        way(using, "b")


def test_the_first_who_keeps_an_id_has_it(using: str) -> None:
    keep(using, "a")
    put(KeptResponse("a", Owner("", 4, "2"), "", b"other", 5), using=using)

    found = last("a", since=timezone.now() - HOUR, using=using)

    assert found is not None
    assert found.owner == ALICE


def test_conversations_go_when_nobody_has_gone_on_with_them_for_long(
    using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_shelf, "ROWS_AT_ONCE", 1)
    for name, previous in [("old", ""), ("older", "old"), ("begun", "")]:
        keep(using, name, previous)
    turns = KeptTurn.objects.using(using)
    turns.update(used_at=timezone.now() - 3 * HOUR)
    keep(using, "gone on", "begun")

    assert way(using, "older") == []
    assert delete_old_responses(timezone.now(), keep_hours=2, using=using) == 2
    assert set(turns.values_list("response_id", flat=True)) == {"begun", "gone on"}
    assert way(using, "gone on") == ["begun", "gone on"]
    assert delete_old_responses(timezone.now(), keep_hours=0, using=using) == 2


@pytest.mark.django_db
def test_the_worker_removes_them_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf_module, "conf", Conf({"RESPONSES_RETENTION_HOURS": "2"}))
    keep("default", "old")
    KeptTurn.objects.update(used_at=timezone.now() - 3 * HOUR)
    keep("default", "new")

    tasks.forget_old_responses()

    assert str(KeptTurn.objects.get()) == "new"
    assert tasks.forget_old_responses.name in {entry["task"] for entry in app.conf.beat_schedule.values()}
