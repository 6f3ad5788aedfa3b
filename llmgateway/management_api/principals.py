"""Who asks, and how far each of their scopes reaches: everywhere, or certain teams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from rest_framework.request import Request

from llmgateway.management_api.models import ManagementToken
from llmgateway.management_api.scopes import SCOPES, expanded
from llmgateway.models import Membership

if TYPE_CHECKING:
    from django.contrib.auth.models import User

Reach = frozenset[int] | None
"""Row ids of teams; None: everywhere, what belongs to no team included."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A token or a person."""

    id: str
    """`token:5` or `user:3`."""
    description: str
    """For messages and records: `token ci`, `user bob`."""
    user: User | None
    """The actor of recorded changes; a token is on record by its name."""
    reach: Mapping[str, Reach]
    """By scope; a scope that is absent they do not have."""

    def has(self, scope: str) -> bool:
        return scope in self.reach

    def has_everywhere(self, scope: str) -> bool:
        return scope in self.reach and self.reach[scope] is None


def principal_of(request: Request) -> Principal | None:
    """Who sent `request`, found once; None: nobody who is known."""
    found: Principal | None = getattr(request, "_principal", None)
    if found is None:
        found = _find(request)
        request._principal = found  # type: ignore[attr-defined]  # noqa: SLF001  # remembered for this request alone
    return found


def _find(request: Request) -> Principal | None:
    if isinstance(request.auth, ManagementToken):
        return principal_of_token(request.auth)
    return None if isinstance(request.user, AnonymousUser) else principal_of_user(request.user)


def principal_of_token(token: ManagementToken) -> Principal:
    teams = None if token.team_id is None else frozenset({token.team_id})
    return Principal(f"token:{token.pk}", f"token {token.name}", None, dict.fromkeys(expanded(token.scopes), teams))


def principal_of_user(user: User) -> Principal:
    """Staff reach everywhere by their permissions, members of a team reach it by their role."""
    permissions = user.get_all_permissions() if user.is_staff else set()
    everywhere = expanded(name for name, scope in SCOPES.items() if permissions.issuperset(scope.permissions))
    reach: dict[str, Reach] = dict.fromkeys(everywhere)
    for team_id, role in Membership.objects.filter(user=user).values_list("team_id", "role"):
        for scope in expanded(name for name, each in SCOPES.items() if role in each.roles):
            teams = reach.get(scope, frozenset())
            if teams is not None:
                reach[scope] = teams | {team_id}
    return Principal(f"user:{user.pk}", f"user {user.get_username()}", user, reach)


__all__ = ["Principal", "Reach", "principal_of", "principal_of_token", "principal_of_user"]
