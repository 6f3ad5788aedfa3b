"""Who is in the tests: people, teams and keys with known rights.

Alice runs the gateway and may do everything. Bob manages the team `platform`, whose key may call every model.
Charlie is a member of the team `research`, whose key may call `small` only. Neither sees the other's team.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User

from llmgateway.models import ApiKey, Membership, Team
from llmgateway.services import key_create

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Cast:
    alice: User
    bob: User
    charlie: User
    platform: Team
    research: Team
    platform_key: ApiKey
    platform_secret: str
    research_key: ApiKey
    research_secret: str


def create_cast() -> Cast:
    """All of them, in the database."""
    platform, research = Team.objects.create(name="platform"), Team.objects.create(name="research")
    alice = User.objects.create_superuser("alice", "alice@example.org", PASSWORD)
    bob = User.objects.create_user("bob", "bob@example.org", PASSWORD)
    charlie = User.objects.create_user("charlie", "charlie@example.org", PASSWORD)
    Membership.objects.create(team=platform, user=bob, role=Membership.Role.MANAGER)
    Membership.objects.create(team=research, user=charlie, role=Membership.Role.MEMBER)
    platform_key, platform_secret = key_create(team=platform, name="platform-key")
    research_key, research_secret = key_create(team=research, name="research-key", allowed_models=["small"])
    return Cast(alice, bob, charlie, platform, research, platform_key, platform_secret, research_key, research_secret)
