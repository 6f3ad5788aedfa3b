"""Whether callers may bring their own keys, and which of those are banned."""

from __future__ import annotations

from llmgateway.config_loader._keys import load_rules
from llmgateway.models import BannedKey, GatewaySettings
from llmgateway.pipeline.snapshot import ForeignKeys


def load_foreign() -> ForeignKeys | None:
    """None: they may not."""
    if not GatewaySettings.objects.filter(pk=1, foreign_keys=True).exists():
        return None
    # What is wrong with a rule is told where keys are loaded.
    rules = load_rules([], frozenset(), pause=lambda: None)
    digests = BannedKey.objects.values_list("digest", flat=True)
    return ForeignKeys(tuple(rules.limits.everyone), frozenset(_bytes(digest) for digest in digests))


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return digest.encode()  # Written past every check; it bans nothing.
