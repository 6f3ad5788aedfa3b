"""What docs/webhooks.md promises receivers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from billing.reporters.courier import Courier
from billing.reporters.models import STATUSES, UsageReporter
from billing.reporters.outbox import add_event
from billing.reporters.payload import trial_payload
from llmgateway.models import Team
from tests.billing.reporters.receiver import SECRET, Receiver, make_reporter
from tests.llmgateway.config_file.conftest import load

PAGE = (Path(__file__).resolve().parents[3] / "docs/webhooks.md").read_text()
pytestmark = pytest.mark.django_db(transaction=True)


def snippet(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_snippet_tells_our_requests_from_others(receiver: Receiver) -> None:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)
    add_event("usage", "usage_a", '{"request_id":"a"}', [make_reporter(receiver.url)])
    Courier().run(for_s=10)

    [got] = receiver.received

    assert names["is_from_gateway"](SECRET, got.headers, got.body)
    assert not names["is_from_gateway"](SECRET, got.headers, got.body + b" ")
    assert not names["is_from_gateway"]("whsec_" + "A" * 44, got.headers, got.body)
    assert not names["is_from_gateway"](SECRET, {**got.headers, "webhook-timestamp": "1"}, got.body)


def test_every_field_is_described_and_the_described_exist() -> None:
    table = PAGE.split("## Is it from the gateway?")[0].split("of type `budget.threshold`")[0]
    described = {
        name for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }

    assert described == set(json.loads(trial_payload(0.0)))


def test_every_status_is_described() -> None:
    assert not [status for status in STATUSES if f"`{status}`" not in PAGE]


def test_the_file_of_the_page_can_be_imported() -> None:
    Team.objects.create(name="dev")

    load(snippet("yaml"))

    assert list(UsageReporter.objects.values_list("name", "kind")) == [
        ("invoicing", "webhook"), ("warehouse", "database"),
    ]  # fmt: skip
