"""Keys with their secrets, networks, limits and budgets."""

from __future__ import annotations

from django.core.exceptions import ValidationError

from llmgateway import services
from llmgateway.config_file.apply.limits import apply_budgets, apply_limits
from llmgateway.config_file.apply.session import Session, is_new
from llmgateway.config_file.entries import KeyEntry
from llmgateway.config_file.report import MASK, FieldChange, as_text
from llmgateway.key_secrets import digest, new_public_id, pepper_fingerprint
from llmgateway.models import ApiKey, NetworkList, Team

KEY_FIELDS = {"allowed_models": "models", "pepper_id": "pepper"}


def apply_keys(session: Session) -> None:
    """Every key of the file, after the teams, networks and aliases it may name."""
    entries = session.document.keys
    session.keys.load(entry.name for entry in entries)
    session.teams.load(name for entry in entries for name in (entry.team, *entry.tenants))
    session.networks.load(name for entry in entries for name in entry.networks)
    for entry in entries:
        _apply_key(session, entry)
    _note_unknown_models(session)


def _apply_key(session: Session, entry: KeyEntry) -> None:
    row = session.keys.existing(entry.name) or ApiKey(name=entry.name)
    if row.revoked_at is not None:
        session.report.notes.append(
            f"The key {entry.name} was revoked and stays so. To go on, give the key in the file another name."
        )
        return
    team = session.teams.referred(entry.team, entry.at("team"), session.problems)
    networks, tenants = _networks(session, entry), _tenants(session, entry)
    secret = _Secret.of(session, row, entry)
    if team is None or networks is None or tenants is None or secret is None:
        session.keys.spoil(entry.name)
        return
    new = is_new(row)
    wanted: dict[str, object] = {
        "team": team,
        "user_id": entry.user_id,
        "allowed_models": entry.models,
        "allowed_ips": entry.allowed_ips,
        "starts_at": entry.starts_at,
        "expires_at": entry.expires_at,
        "priority": entry.priority,
        "may_bypass_health": entry.may_bypass_health,
        **secret.columns,
        **({} if entry.enabled is None else {"enabled": entry.enabled}),
    }
    show = {"digest": _masked, "pepper_id": as_text, "previous_digest": _masked}
    names = KEY_FIELDS | {"digest": "digest" if entry.digest else "secret"}
    if not session.put(row, "key", entry.name, entry, wanted, names=names, show=show):
        session.keys.spoil(entry.name)
        return
    session.keys.add(entry.name, row)
    if secret.generated:
        session.report.secrets[entry.name] = secret.generated
    _apply_networks(session, row, networks, new=new)
    _apply_tenants(session, row, tenants, new=new)
    apply_limits(session, row, row.limits.all(), entry.limits)
    apply_budgets(session, row, row.budgets.all(), entry.budgets)


def _masked(value: object) -> str:
    return MASK if value else as_text(None)


def _networks(session: Session, entry: KeyEntry) -> list[NetworkList] | None:
    found = [
        session.networks.referred(name, entry.at("networks").child(index), session.problems)
        for index, name in enumerate(entry.networks)
    ]
    known = [row for row in found if row is not None]
    return known if len(known) == len(found) else None


def _apply_networks(session: Session, key: ApiKey, networks: list[NetworkList], *, new: bool) -> None:
    old = {tie.network_list.name for tie in key.key_networks.all()}
    wanted = {row.name for row in networks}
    if old == wanted:
        return
    services.key_set_networks(key, networks)
    shown = FieldChange("networks", "" if new else as_text(sorted(old)), as_text(sorted(wanted)))
    session.report.add_field("key", key.name, shown)


def _tenants(session: Session, entry: KeyEntry) -> list[Team] | None:
    found = [
        session.teams.referred(name, entry.at("tenants").child(index), session.problems)
        for index, name in enumerate(entry.tenants)
        if name != entry.team
    ]
    known = [row for row in found if row is not None]
    return known if len(known) == len(found) else None


def _apply_tenants(session: Session, key: ApiKey, tenants: list[Team], *, new: bool) -> None:
    old = {tie.team.name for tie in key.key_tenants.all()}
    wanted = {row.name for row in tenants}
    if old == wanted:
        return
    services.key_set_tenants(key, tenants)
    shown = FieldChange("tenants", "" if new else as_text(sorted(old)), as_text(sorted(wanted)))
    session.report.add_field("key", key.name, shown)


def _note_unknown_models(session: Session) -> None:
    """A model that no alias answers for is no error: the alias may come later. It is worth knowing, though."""
    asked = {model for entry in session.document.keys for model in entry.models}
    session.aliases.load(asked)
    unknown = sorted(model for model in asked if session.aliases.existing(model) is None)
    for model in unknown:
        if ("aliases", model) not in session.document.unusable:
            holder = next(entry.name for entry in session.document.keys if model in entry.models)
            session.report.notes.append(f"The key {holder} may call {model}, but there is no alias of that name.")


class _Secret:
    """The columns of a key that come from its secret, and the secret if it was made here."""

    def __init__(self, columns: dict[str, object], generated: str = "") -> None:
        self.columns = columns
        self.generated = generated

    @classmethod
    def of(cls, session: Session, row: ApiKey, entry: KeyEntry) -> _Secret | None:
        """What the file asks for, or None if that cannot be; then it has been told why."""
        public_id = {"public_id": entry.public_id} if entry.public_id else {}
        if entry.digest:
            columns = cls._from_digest(session, row, entry)
            return None if columns is None else cls(columns | (public_id or cls._fresh_public_id(row)))
        if not entry.secret and not is_new(row):
            return cls(dict(public_id))
        if entry.secret and _is_current(row, entry.secret):
            return cls(dict(public_id))
        return cls._assigned(session, row, entry)

    @staticmethod
    def _fresh_public_id(row: ApiKey) -> dict[str, object]:
        return {"public_id": new_public_id()} if is_new(row) else {}

    @staticmethod
    def _from_digest(session: Session, row: ApiKey, entry: KeyEntry) -> dict[str, object] | None:
        ours = [pepper_fingerprint(pepper) for pepper in services.peppers()]
        if entry.pepper not in ours:
            session.problems.add(
                entry.at("digest"),
                f"This digest was made with the pepper {entry.pepper}; this gateway has {', '.join(ours)}. Set "
                "GATEWAY_KEY_PEPPERS as it is where the file was exported, or give the key a `secret`.",
            )
            return None
        if row.digest == entry.digest:
            return {"pepper_id": entry.pepper}
        return {
            "digest": entry.digest,
            "pepper_id": entry.pepper,
            "previous_digest": "",
            "previous_valid_until": None,
        }

    @classmethod
    def _assigned(cls, session: Session, row: ApiKey, entry: KeyEntry) -> _Secret | None:
        """A chosen secret, or a fresh one for a new key. The one before stops at once."""
        draft = ApiKey(pk=row.pk, public_id=entry.public_id or row.public_id)
        try:
            secret = services.key_assign_secret(draft, entry.secret)
        except ValidationError as error:
            session.problems.add(entry.at("secret"), " ".join(error.messages))
            return None
        columns: dict[str, object] = {
            "public_id": draft.public_id,
            "digest": draft.digest,
            "pepper_id": draft.pepper_id,
            "previous_digest": draft.previous_digest,
            "previous_valid_until": draft.previous_valid_until,
        }
        return cls(columns, "" if entry.secret else secret)


def _is_current(row: ApiKey, secret: str) -> bool:
    return any(
        row.pepper_id == pepper_fingerprint(pepper) and row.digest == digest(secret.encode(), pepper).hex()
        for pepper in services.peppers()
    )
