"""The members of teams. People who are not known yet become users without a password."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.auth.models import User

from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import MemberEntry
from llmgateway.models import Membership, Team


def apply_members(session: Session, team: Team, entries: Iterable[MemberEntry]) -> None:
    """Members that the file does not name stay, unless it prunes."""
    rows = {row.user_id: row for row in team.memberships.all()}
    for entry in entries:
        user = _user(session, entry)
        if user is not None:
            row = rows.pop(user.pk, None) or Membership(team=team, user=user)
            session.put(row, "member", f"{user.get_username()} of {team.name}", entry, {"role": entry.role})
    for row in rows.values():
        session.unnamed(row, "member", f"{row.user.get_username()} of {team.name}")


def _user(session: Session, entry: MemberEntry) -> User | None:
    if entry.username:
        user = User.objects.filter(username=entry.username).first()
        if user is None:
            session.problems.add(
                entry.at("username"), f"There is no user {entry.username}; name a new person by `email`."
            )
        return user
    found = list(User.objects.filter(email__iexact=entry.email)[:2])
    if len(found) > 1:
        session.problems.add(entry.at("email"), f"Several users have {entry.email}; name this one by `username`.")
        return None
    return found[0] if found else _create_user(session, entry)


def _create_user(session: Session, entry: MemberEntry) -> User | None:
    user = User(username=entry.email)
    user.set_unusable_password()
    if not session.put(user, "user", entry.email, entry, {"email": entry.email}, names={"username": "email"}):
        return None
    session.report.notes.append(
        f"{entry.email} is a new user without a password; an admin sets one before they can log in."
    )
    return user
