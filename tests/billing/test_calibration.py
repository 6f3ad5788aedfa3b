"""What tokens are really worth, from estimates and providers' counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing.calibration import FEWEST, Proposal, Ratios, Sample, proposals
from billing.models import UsageRecord
from llmgateway.models import GatewaySettings
from llmgateway.services import settings_update
from providers.adapters.body import estimate_input_tokens
from providers.models import Provider
from tests.billing.records import closed

PRESENT = Ratios(4.0, {"openai": 5.0}, 4.0, 20_000)


def sample(size: int, tokens: int, adapter: str = "openai") -> Sample:
    """A body of ASCII text as the gateway would have estimated it."""
    chars = PRESENT.chars_of(adapter)
    return Sample(adapter, estimate_input_tokens(b"x" * size, chars), size, tokens)


def by_setting(found: list[Proposal]) -> dict[tuple[str, str], Proposal]:
    return {(each.setting, each.adapter): each for each in found}


def test_characters_per_token_are_found_for_each_adapter() -> None:
    found = [sample(size, size // 3) for size in range(300, 300 + FEWEST)]
    found += [sample(size, size // 6, "mistral") for size in range(600, 600 + FEWEST)]

    learned = by_setting(proposals(found, PRESENT))

    openai, mistral = learned["chars_per_token", "openai"], learned["chars_per_token", "mistral"]
    assert (openai.present, openai.samples) == (5.0, FEWEST)
    assert openai.proposed == pytest.approx(3.0, abs=0.05)
    assert mistral.proposed == pytest.approx(6.0, abs=0.1)
    assert openai.error_before == pytest.approx(0.4, abs=0.02)
    assert openai.error_after < 0.02


def test_a_few_odd_requests_decide_nothing() -> None:
    found = [sample(900, 300) for _ in range(FEWEST)] + [sample(900, 90_000) for _ in range(FEWEST // 4)]

    assert by_setting(proposals(found, PRESENT))["chars_per_token", "openai"].proposed == pytest.approx(3.0, abs=0.05)


def test_too_few_requests_propose_nothing() -> None:
    learned = proposals([sample(900, 300)] * (FEWEST - 1), PRESENT)

    assert [(each.samples, each.proposed) for each in learned] == [(FEWEST - 1, None), (0, None)]


def test_bytes_per_token_are_found_from_what_lies_above_the_characters() -> None:
    found = [sample(60_000, 20_000 // 5 + 40_000 // 2) for _ in range(FEWEST)]

    learned = by_setting(proposals(found, PRESENT))["bytes_per_token", ""]

    assert (learned.proposed, learned.samples) == (2.0, FEWEST)
    assert learned.error_after < learned.error_before


def test_a_body_with_a_picture_says_nothing_of_bytes() -> None:
    text = sample(60_000, 24_000)
    picture = text._replace(body_bytes=500_000)

    assert by_setting(proposals([picture] * FEWEST, PRESENT))["bytes_per_token", ""].samples == 0


def rows(number: int, **changes: Any) -> None:
    now = timezone.now()
    row = closed("", input_estimate=201, input_bytes=1000, input=300, cache_read=33, **changes)
    row |= {"started_at": now, "day": now.date(), "provider": "main"}
    UsageRecord.objects.bulk_create(UsageRecord(**{**row, "id": f"req_{each}"}) for each in range(number))


@pytest.mark.django_db
class TestCommand:
    @pytest.fixture(autouse=True)
    def _a_provider(self) -> None:
        Provider.objects.create(name="main", adapter="openai")

    def test_it_proposes_and_changes_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows(FEWEST)

        call_command("calibrate_tokens")

        out = capsys.readouterr().out
        assert "chars_per_token of openai: 5 → 3, from 200 requests; typical error 39.6% → 0." in out
        assert "bytes_per_token: 4; 0 requests are too few" in out
        assert not GatewaySettings.objects.exists()

    def test_it_applies_what_it_proposes_and_that_is_recorded(self) -> None:
        rows(FEWEST)
        settings_update(retry_attempts=7)

        call_command("calibrate_tokens", apply=True)

        row = GatewaySettings.objects.get()
        assert (row.chars_per_token_by_provider["openai"], row.retry_attempts) == (3.0, 7)
        entry = LogEntry.objects.get_for_model(GatewaySettings).order_by("-id").first()
        assert entry is not None
        assert set(entry.changes_dict) == {"chars_per_token_by_provider"}

    def test_what_other_settings_estimated_tells_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows(FEWEST)
        settings_update(chars_per_token=3.5)

        call_command("calibrate_tokens")

        assert "Nothing to propose: too few requests since" in capsys.readouterr().out

    def test_a_cold_start_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows(3)

        call_command("calibrate_tokens", json=True)

        first = json.loads(capsys.readouterr().out.splitlines()[0])
        assert (first["samples"], first["proposed"]) == (3, None)

    def test_estimated_and_pictured_requests_are_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows(FEWEST, usage_source="estimated")
        call_command("calibrate_tokens")
        UsageRecord.objects.update(usage_source="provider", image_input=5)
        call_command("calibrate_tokens")

        assert capsys.readouterr().out.count("Nothing to propose") == 2

    def test_what_the_settings_do_not_take_is_not_proposed(self) -> None:
        rows(FEWEST)
        UsageRecord.objects.update(input=10**8)

        call_command("calibrate_tokens", apply=True)

        assert GatewaySettings.objects.get().chars_per_token_by_provider["openai"] == 0.1

    def test_a_row_that_is_wrong_already_is_not_saved(self) -> None:
        rows(FEWEST)
        GatewaySettings.objects.create(pk=1, quota_status=418)

        with pytest.raises(CommandError, match="Nothing was changed"):
            call_command("calibrate_tokens", apply=True)
