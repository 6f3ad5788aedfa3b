"""`calibrate_tokens`: what the settings of token estimation should be, going by what providers have counted."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from auditlog.models import LogEntry
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.calibration import FEWEST, Proposal, Ratios, proposals, samples
from billing.journal_files import to_json
from billing.management.commands.usage import moment
from llmgateway.audit import acting_as
from llmgateway.models import GatewaySettings
from llmgateway.services import settings_update
from providers.adapters.registry import usual_chars_per_token
from providers.models import Provider

ESTIMATION = frozenset({"chars_per_token", "chars_per_token_by_provider", "bytes_per_token", "max_sample_bytes"})
LONGEST = timedelta(days=30)


class Command(BaseCommand):
    help = (
        "Proposes characters per token by adapter, and bytes per token, from requests whose input a provider counted. "
        "Without --apply nothing is changed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            default="",
            metavar="T",
            help=f"{moment.__doc__} Default: 30d, or when these settings were changed last: what was estimated by "
            "others tells nothing.",
        )
        parser.add_argument("--json", action="store_true", help="One JSON object per setting.")
        parser.add_argument("--apply", action="store_true", help="Take the proposed values over.")

    def handle(self, *args: Any, **options: Any) -> None:
        row = GatewaySettings.objects.filter(pk=1).first() or GatewaySettings(pk=1)
        since = moment(options["since"]) if options["since"] else _since()
        adapters = dict(Provider.objects.values_list("name", "adapter"))
        found = proposals(samples(since, adapters), _ratios(row))
        for each in found:
            self.stdout.write(to_json(asdict(each)).decode() if options["json"] else _line(each))
        new = [each for each in found if each.proposed is not None]
        if options["apply"]:
            _apply(row, new)
        if not options["json"]:
            self.stdout.write(_ending(new, since, applied=options["apply"]))


def _since() -> datetime:
    entries = LogEntry.objects.get_for_model(GatewaySettings).order_by("-timestamp")[:100]
    changed: list[datetime] = [entry.timestamp for entry in entries if _changes_estimates(entry)]
    return max([timezone.now() - LONGEST, *changed])


def _changes_estimates(entry: LogEntry) -> bool:
    changes: dict[str, Any] = entry.changes_dict or {}
    if entry.action == LogEntry.Action.CREATE:  # Before the row was made, its defaults held.
        usual = GatewaySettings()
        return any(name in changes and changes[name][1] != getattr(usual, name) for name in ESTIMATION)
    return bool(ESTIMATION & changes.keys())


def _ratios(row: GatewaySettings) -> Ratios:
    by_adapter = usual_chars_per_token() | row.chars_per_token_by_provider
    return Ratios(row.chars_per_token, by_adapter, row.bytes_per_token, row.max_sample_bytes)


def _apply(row: GatewaySettings, new: list[Proposal]) -> None:
    by_adapter = {**row.chars_per_token_by_provider, **{each.adapter: each.proposed for each in new if each.adapter}}
    changes: dict[str, Any] = {"chars_per_token_by_provider": by_adapter}
    changes |= {each.setting: each.proposed for each in new if not each.adapter}
    try:
        with acting_as(source="command calibrate-tokens"):
            settings_update(**changes)
    except ValidationError as error:
        raise CommandError(f"Nothing was changed: {'; '.join(error.messages)}") from error


def _line(each: Proposal) -> str:
    name = f"{each.setting} of {each.adapter}" if each.adapter else each.setting
    if each.proposed is None:
        return f"{name}: {each.present:g}; {each.samples} requests are too few to say more, {FEWEST} are needed"
    return (
        f"{name}: {each.present:g} → {each.proposed:g}, from {each.samples} requests; "
        f"typical error {each.error_before:.1%} → {each.error_after:.1%}"
    )


def _ending(new: list[Proposal], since: datetime, *, applied: bool) -> str:
    start = f"{since:%Y-%m-%d %H:%M} UTC"
    if not new:
        return f"Nothing to propose: too few requests since {start}. Come back when there has been more traffic."
    if applied:
        return "Applied. Requests are estimated by these values within a second."
    return f"From requests since {start}. `./gateway calibrate-tokens --apply` takes the values over."
