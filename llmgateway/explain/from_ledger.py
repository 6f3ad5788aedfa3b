"""A request of the ledger as a question: what would become of the same request now. What was said nobody has any more."""

from __future__ import annotations

from billing.models import UsageRecord
from llmgateway.explain.question import PATHS, Question


def question_of(request_id: str) -> Question | None:
    """None: the ledger does not have it, or not yet."""
    row = UsageRecord.objects.filter(pk=request_id).first()
    if row is None:
        return None
    return Question(
        model=row.alias,
        key_id=row.key_id,
        client_ip=row.client_ip or "127.0.0.1",
        path=row.path if row.path in PATHS else PATHS[0],
        end_user=row.end_user,
        input_tokens=row.input_estimate or row.input or None,
    )
