"""Whether callers may bring their own keys, which teams may or may not, and which of those keys are banned."""

from __future__ import annotations

from llmgateway.config_loader._keys import load_rules
from llmgateway.models import BannedKey, GatewaySettings, Team
from llmgateway.pipeline.snapshot import ForeignKeys


def load_foreign() -> ForeignKeys | None:
    """None: nobody may."""
    allowed = GatewaySettings.objects.filter(pk=1, foreign_keys=True).exists()
    deciding = Team.objects.filter(own_keys__in=(Team.OwnKeys.ALLOW, Team.OwnKeys.REFUSE)).order_by()
    teams = {team_id: said == Team.OwnKeys.ALLOW for team_id, said in deciding.values_list("id", "own_keys")}
    if not allowed and not any(teams.values()):
        return None
    # What is wrong with a rule is told where keys are loaded.
    rules = load_rules([], frozenset(), pause=lambda: None)
    digests = BannedKey.objects.values_list("digest", flat=True)
    return ForeignKeys(tuple(rules.limits.everyone), frozenset(_bytes(digest) for digest in digests), allowed, teams)


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return digest.encode()  # Written past every check; it bans nothing.
