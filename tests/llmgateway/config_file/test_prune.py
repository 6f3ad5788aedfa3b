"""What an import does to what its file does not name: it leaves it alone, or prunes it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from billing.models import Budget, Price
from llmgateway.models import (
    ApiKey,
    Membership,
    NetworkList,
    RateLimit,
    Team,
)
from providers.models import Credential, Deployment, ModelAlias, Provider
from tests.llmgateway.config_file.apply_scene import ROUTES
from tests.llmgateway.config_file.conftest import load, problems

pytestmark = pytest.mark.django_db


# What the file does not name

WHOLE = (
    ROUTES
    + """\
networks: {office: [10.0.0.0/8]}
teams:
  t:
    limits: [{metric: requests, per: minute, amount: 5}]
    budgets: [{name: day, window: day, limit_usd: 1}]
    members: [{email: ana@example.org}]
keys:
  k:
    team: t
    networks: [office]
    limits: [{metric: requests, per: minute, amount: 5}]
    budgets: [{name: day, window: day, limit_usd: 1}]
prices: [{provider: openai, model: m, input: 1}]
limits: [{metric: requests, per: minute, amount: 5}]
budgets: [{name: day, window: day, limit_usd: 1}]
"""
)


def test_what_the_file_does_not_name_is_left_alone_and_mentioned() -> None:
    load(WHOLE)

    report = load("teams: {t: {}}\n")

    assert report.changes == []
    assert RateLimit.objects.count() == 3
    assert Budget.objects.count() == 3
    assert ApiKey.objects.count() == 1
    assert {"key k", "provider openai", "limit requests per minute (team t)", "budget day (everyone)"} <= set(
        report.kept
    )
    assert any("left alone" in line and "--prune" in line for line in report.lines())


def test_prune_removes_what_the_file_does_not_name_and_lists_it() -> None:
    load(WHOLE)

    report = load("teams: {t: {}}\n", prune=True)

    for model in (Provider, Credential, Deployment, ModelAlias, ApiKey, NetworkList, RateLimit, Budget, Membership):
        assert not model._default_manager.exists(), model
    assert Team.objects.get().name == "t"
    assert {"- key k", "- alias small", "- provider openai", "- budget day (everyone)"} <= set(report.lines())
    assert User.objects.exists()


def test_prune_removes_nothing_that_the_file_names() -> None:
    load(WHOLE)

    assert load(WHOLE, prune=True).changes == []


def test_prune_takes_an_unnamed_credential_once_its_deployments_are_gone() -> None:
    load(ROUTES)

    load("providers: {openai: {}}\n", prune=True)

    assert not Credential.objects.exists()
    assert Provider.objects.exists()


def test_prune_refuses_to_remove_what_is_in_use_and_names_the_user() -> None:
    load(WHOLE)

    found = problems("keys: {k: {team: t, networks: [office]}}\n", prune=True)

    assert [line.partition(" Add it")[0] for line in found] == [
        f"config.yaml:1: {path}: The file does not name the {what}, but it cannot be removed: API key k needs it."
        for path, what in (("networks.office", "network list office"), ("teams.t", "team t"))
    ]
    assert Provider.objects.exists(), "nothing may be removed when something cannot be"


def test_prune_leaves_revoked_keys_and_prices_alone() -> None:
    load(WHOLE)
    ApiKey.objects.update(revoked_at=timezone.now())

    load("providers: {openai: {}}\nteams: {t: {}}\nnetworks: {office: [10.0.0.0/8]}\n", prune=True)

    assert ApiKey.objects.get().name == "k"
    assert Price.objects.count() == 1


def test_prune_does_not_remove_what_the_file_names_badly() -> None:
    load(WHOLE)

    found = problems(WHOLE.replace("team: t\n", "team: t\n    surprise: 1\n"), prune=True)

    assert len(found) == 1
    assert "keys.k.surprise" in found[0]
