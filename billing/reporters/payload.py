"""What is told of a request: flat, in the field's common words, and without any secret. Pure, no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from billing.journal_files import to_json
from billing.money import plain, usd
from billing.rollups import input_tokens, output_tokens
from billing.usage_rows import completed
from llmgateway.pipeline.protocols import Record

USAGE = "usage"
BUDGET_THRESHOLD = "budget.threshold"
TEST = "test"

PATHS = {
    "chat": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
"""Where an operation was called by what journals from before the path was noted say. Others are named themselves."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one reporter wants to be told, as the drain needs it."""

    reporter_id: int
    statuses: frozenset[str]
    """Empty: all."""
    team_ids: frozenset[int]
    """Empty: all."""
    api_key_field: str
    includes_cost: bool

    def takes(self, row: Record) -> bool:
        return (not self.statuses or row["status"] in self.statuses) and (
            not self.team_ids or row["team_id"] in self.team_ids
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a row of the ledger does not say itself."""

    backend_urls: Mapping[str, str]
    """By name of the deployment."""
    masked_keys: Mapping[str, str]
    """By id of the key, as far as somebody asked for it."""


def event_id(row: Record) -> str:
    """The same for every delivery of this request, to whomever."""
    return f"usage_{row['id']}"


def usage_payload(row: Record, wanted: Wanted, around: Surroundings) -> str:
    """The event of one request, as JSON."""
    read, written = input_tokens(row), output_tokens(row)
    content = {
        "type": USAGE,
        "request_id": row["id"],
        "user_id": row["end_user"],
        "api_key": _api_key(row, wanted, around),
        "team": row["team_name"],
        "model": row["alias"],
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "estimated": row["usage_source"] == "estimated",
        "is_stream": bool(row["stream"]),
        "status": row["status"],
        "endpoint": row.get("path") or PATHS.get(row["operation"], row["operation"]),
        "timestamp": moment(row["started_at"]),
        "backend_url": around.backend_urls.get(row["deployment"], ""),
    }
    if wanted.includes_cost:
        content["cost_usd"] = plain(usd(row["cost_pico_usd"]))
        content["cost_pico_usd"] = row["cost_pico_usd"]
    return to_json(content).decode()


def _api_key(row: Record, wanted: Wanted, around: Surroundings) -> str:
    key_id: str = row["key_id"]
    if wanted.api_key_field == "name":
        return str(row["key_name"])
    # A key of a static file has an id only, and so has one that was deleted meanwhile.
    return around.masked_keys.get(key_id, key_id) if wanted.api_key_field == "masked" else key_id


def moment(seconds: float) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def body_of(payloads: Sequence[str], *, batched: bool) -> bytes:
    """What is posted: the event itself, or a list of events."""
    return (f"[{','.join(payloads)}]" if batched else payloads[0]).encode()


def trial_payload(now: float) -> str:
    """An event with every field of a usage event, and figures that nobody can take for real ones."""
    row = completed({"id": "test", "started_at": now, "operation": "chat", "status": "completed", "key_id": "0"})
    wanted = Wanted(0, frozenset(), frozenset(), "id", includes_cost=True)
    text = usage_payload(row, wanted, Surroundings({}, {}))
    return text.replace(f'"type":"{USAGE}"', f'"type":"{TEST}"', 1)
