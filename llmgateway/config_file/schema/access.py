"""Who may call: network lists, teams with their members, and keys."""

from __future__ import annotations

import re

from llmgateway.config_file.entries import Document, KeyEntry, MemberEntry, NetworkListEntry, TeamEntry
from llmgateway.config_file.fields import FieldReader, as_sequence, read_texts
from llmgateway.config_file.problems import Problems
from llmgateway.config_file.reading import Value
from llmgateway.config_file.schema.limits import CALLER, read_budgets, read_limits
from llmgateway.models import Membership, Team
from llmgateway.validators import validate_name, validate_networks

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PUBLIC_ID = re.compile(r"[A-Za-z0-9]{1,16}")


def read_access(parent: FieldReader, document: Document) -> None:
    """Fill in the document's networks, teams and keys."""
    pepper = parent.text("pepper", "") or ""
    for name, value in parent.named("networks", validate_name):
        networks = _read_networks(name, value, parent.problems)
        if networks is None:
            document.unusable.add(("networks", name))
        else:
            document.networks.append(networks)
    for name, value in parent.named("teams", validate_name):
        team = _read_team(name, FieldReader(value, parent.problems))
        if team is None:
            document.unusable.add(("teams", name))
        else:
            document.teams.append(team)
    for name, value in parent.named("keys", validate_name):
        key = _read_key(name, FieldReader(value, parent.problems), pepper)
        if key is None:
            document.unusable.add(("keys", name))
        else:
            document.keys.append(key)


def check_network(text: str) -> None:
    validate_networks([text])


def _read_networks(name: str, value: Value, problems: Problems) -> NetworkListEntry | None:
    before = problems.seen
    networks = list(read_texts(as_sequence(value, value.place, problems), problems, check_network))
    if problems.seen != before:
        return None
    return NetworkListEntry(place=value.place, name=name, networks=networks)


def _read_team(name: str, reader: FieldReader) -> TeamEntry | None:
    time_zone = reader.text("time_zone", "UTC")
    own_keys = reader.choice("own_keys", Team.OwnKeys.values, default=Team.OwnKeys.INHERIT.value)
    limits = read_limits(reader, CALLER)
    budgets = read_budgets(reader, CALLER)
    members = _read_members(reader)
    reader.finish()
    if not reader.usable or time_zone is None or own_keys is None:
        return None
    return TeamEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        time_zone=time_zone,
        own_keys=own_keys,
        limits=limits,
        budgets=budgets,
        members=members,
    )


def _read_members(parent: FieldReader) -> list[MemberEntry]:
    found: dict[str, MemberEntry] = {}
    for reader in parent.objects("members"):
        email = reader.text("email", "") or ""
        username = reader.text("username", "") or ""
        role = reader.choice("role", Membership.Role.values, default=Membership.Role.MEMBER.value)
        reader.finish()
        if bool(email) == bool(username) and reader.usable:
            reader.add("email", "Name the person by `email` (or by `username`, not by both).")
        if not reader.usable or role is None:
            continue
        if (identity := (email or username).lower()) in found:
            reader.add("email" if email else "username", "This person is a member already; leave one line out.")
            continue
        found[identity] = MemberEntry(
            place=reader.place, places=reader.places(), email=email, username=username, role=role
        )
    return list(found.values())


def _read_key(name: str, reader: FieldReader, pepper: str) -> KeyEntry | None:
    team = reader.text("team", required=True)
    texts = {field: reader.text(field, "") or "" for field in ("secret", "digest", "public_id", "user_id")}
    own_pepper = reader.text("pepper", pepper) or ""
    models = reader.texts("models", validate_name)
    networks = reader.texts("networks")
    allowed_ips = reader.texts("allowed_ips", check_network)
    priority = reader.integer("priority", 0, at_least=-100, at_most=100)
    may_bypass_health = reader.boolean("may_bypass_health", default=False)
    tenants = list(dict.fromkeys(reader.texts("tenants")))
    starts_at, expires_at = reader.moment("starts_at"), reader.moment("expires_at")
    limits = read_limits(reader, CALLER)
    budgets = read_budgets(reader, CALLER)
    enabled = reader.boolean("enabled")
    reader.refuse("rules", "cache", "reset")
    reader.finish()
    _check_key_texts(reader, texts, own_pepper)
    if not reader.usable or team is None:
        return None
    return KeyEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        team=team,
        **texts,
        pepper=own_pepper,
        models=models,
        networks=networks,
        allowed_ips=allowed_ips,
        starts_at=starts_at,
        expires_at=expires_at,
        priority=priority or 0,
        may_bypass_health=bool(may_bypass_health),
        tenants=tenants,
        limits=limits,
        budgets=budgets,
        enabled=enabled,
    )


def _check_key_texts(reader: FieldReader, texts: dict[str, str], pepper: str) -> None:
    if texts["secret"] and texts["digest"]:
        reader.add("digest", "A key has a `secret` or its `digest`, not both.")
    if texts["digest"] and not _DIGEST.fullmatch(texts["digest"]):
        reader.add("digest", "A digest is 64 lower-case hexadecimal digits, as the export writes it.")
    elif texts["digest"] and not pepper:
        reader.add("digest", "A digest needs the fingerprint of its pepper: `pepper: …` at the top of the file.")
    if texts["public_id"] and not _PUBLIC_ID.fullmatch(texts["public_id"]):
        reader.add("public_id", "A public id is up to 16 letters and digits.")
