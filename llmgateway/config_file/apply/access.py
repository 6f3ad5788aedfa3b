"""Network lists, teams with their members, and keys."""

from __future__ import annotations

from llmgateway.config_file.apply.keys import apply_keys
from llmgateway.config_file.apply.limits import apply_budgets, apply_limits
from llmgateway.config_file.apply.people import apply_members
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import NetworkListEntry, TeamEntry
from llmgateway.models import NetworkList, Team


def apply_access(session: Session) -> None:
    """In the order in which they refer to each other."""
    document = session.document
    session.networks.load(entry.name for entry in document.networks)
    for networks in document.networks:
        _apply_networks(session, networks)
    session.teams.load(entry.name for entry in document.teams)
    for team in document.teams:
        _apply_team(session, team)
    apply_keys(session)


def _apply_networks(session: Session, entry: NetworkListEntry) -> None:
    row = session.networks.existing(entry.name) or NetworkList(name=entry.name)
    if session.put(row, "network list", entry.name, entry, {"networks": entry.networks}):
        session.networks.add(entry.name, row)
    else:
        session.networks.spoil(entry.name)


def _apply_team(session: Session, entry: TeamEntry) -> None:
    row = session.teams.existing(entry.name) or Team(name=entry.name)
    if not session.put(row, "team", entry.name, entry, {"time_zone": entry.time_zone, "own_keys": entry.own_keys}):
        session.teams.spoil(entry.name)
        return
    session.teams.add(entry.name, row)
    apply_limits(session, row, row.limits.all(), entry.limits)
    apply_budgets(session, row, row.budgets.all(), entry.budgets)
    apply_members(session, row, entry.members)
