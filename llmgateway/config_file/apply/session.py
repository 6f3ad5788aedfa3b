"""One import under way: what the file says, the rows it has met, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet

from llmgateway.config_file.entries import Document, Entry
from llmgateway.config_file.problems import Place, Problems
from llmgateway.config_file.report import Action, Change, FieldChange, Report, as_text
from llmgateway.models import ApiKey, NetworkList, Team
from providers.models import Credential, Deployment, ModelAlias, Provider

_RULES = ("limits", "budgets__credits")
_OF_ALIASES = ("targets__deployment", "targets__target_alias", "rules__use", "fallbacks__use", *_RULES)
_OF_KEYS = ("key_networks__network_list", "key_tenants__team", *_RULES)
M = TypeVar("M", bound=Model)
Show = Callable[[object], str]


class Known(Generic[M]):
    """The rows of one section by name, read together and not one by one."""

    def __init__(self, section: str, word: str, rows: QuerySet[M], unusable: set[tuple[str, str]]) -> None:
        self.section = section
        self.word = word
        self._queryset = rows
        self._unusable = unusable
        self._rows: dict[str, M] = {}
        self._asked: set[str] = set()

    def load(self, names: Iterable[str]) -> None:
        """Read the rows of these names at once."""
        new = set(names) - self._asked
        self._asked |= new
        self._rows.update(self._queryset.in_bulk(sorted(new), field_name="name"))

    def existing(self, name: str) -> M | None:
        self.load([name])
        return self._rows.get(name)

    def add(self, name: str, row: M) -> None:
        self._rows[name] = row

    def spoil(self, name: str) -> None:
        """This one has a problem that was told; who refers to it need not be told again."""
        self._unusable.add((self.section, name))

    def referred(self, name: str, place: Place, problems: Problems) -> M | None:
        """The row that another one names."""
        row = self.existing(name)
        if row is not None:
            return row
        if (self.section, name) in self._unusable:
            problems.meet_again()
        else:
            problems.add(place, f"There is no {self.word} {name}; add it under `{self.section}` or mend the name.")
        return None


class Session:
    """Shared by the parts of one import; lives as long as its transaction."""

    def __init__(self, document: Document, problems: Problems, *, prune: bool) -> None:
        self.document = document
        self.problems = problems
        self.prune = prune
        self.report = Report()
        self.unnamed_credentials: list[Credential] = []
        """Removed last, when the deployments that used them are gone."""
        unusable = document.unusable
        self.providers = Known(
            "providers", "provider", Provider.objects.prefetch_related("credentials", *_RULES), unusable
        )
        self.deployments = Known(
            "deployments",
            "deployment",
            Deployment.objects.select_related("provider", "credential").prefetch_related(*_RULES),
            unusable,
        )
        self.aliases = Known("aliases", "alias", ModelAlias.objects.prefetch_related(*_OF_ALIASES), unusable)
        self.networks = Known("networks", "network list", NetworkList.objects.all(), unusable)
        self.teams = Known("teams", "team", Team.objects.prefetch_related(*_RULES, "memberships__user"), unusable)
        self.keys = Known(
            "keys",
            "key",
            ApiKey.objects.select_related("team").prefetch_related(*_OF_KEYS),
            unusable,
        )

    def put(
        self,
        row: Model,
        kind: str,
        label: str,
        entry: Entry,
        wanted: Mapping[str, object],
        *,
        names: Mapping[str, str] | None = None,
        show: Mapping[str, Show] | None = None,
        unique: bool = False,
    ) -> bool:
        """Make `row` say `wanted`; write it only if it does not. `names` maps columns to fields of the file.

        With `unique` the caller has seen that no other row stands for the same; asking the database again for each of
        many rows would take most of an import's time.
        Returns whether the row is as wanted; otherwise what is wrong has been told, under the field's name.
        """
        names, show = names or {}, show or {}
        new = is_new(row)
        changes = tuple(
            _field_change(row, column, value, names.get(column, column), show.get(column, as_text), new=new)
            for column, value in wanted.items()
            if new or not _says(row, column, value)
        )
        if not new and not changes:
            self.report.unchanged += 1
            return True
        differing = [column for column, value in wanted.items() if new or not _says(row, column, value)]
        for column in differing:
            setattr(row, column, wanted[column])
        if not self.clean(row, entry, names, unique=unique):
            return False
        row.save(update_fields=None if new else differing)
        told = tuple(change for change in changes if not new or change.new != as_text(None))
        self.report.changes.append(Change(Action.CREATED if new else Action.CHANGED, kind, label, told))
        return True

    def remove(self, row: Model, kind: str, label: str) -> None:
        row.delete()
        self.report.changes.append(Change(Action.REMOVED, kind, label))

    def unnamed(self, row: Model, kind: str, label: str) -> None:
        """A row below a named object that the file does not name."""
        if self.prune:
            self.remove(row, kind, label)
        else:
            self.report.kept.append(f"{kind} {label}")

    def clean(self, row: Model, entry: Entry, names: Mapping[str, str] | None = None, *, unique: bool = False) -> bool:
        """Whether the row is valid; otherwise what is wrong has been told."""
        names = names or {}
        try:
            row.full_clean(validate_unique=not unique, validate_constraints=not unique)
        except ValidationError as error:
            for column, messages in error.message_dict.items():
                place = entry.place if column == "__all__" else entry.at(names.get(column, column))
                for message in messages:
                    self.problems.add(place, message)
            return False
        return True


def is_new(row: Model) -> bool:
    """Whether the row is not in the database yet."""
    return row._state.adding  # noqa: SLF001  # Django documents it.


def _says(row: Model, column: str, value: object) -> bool:
    if isinstance(value, Model):
        return bool(getattr(row, f"{column}_id") == value.pk)
    return bool(getattr(row, column) == value)


def _field_change(row: Model, column: str, value: object, name: str, show: Show, *, new: bool) -> FieldChange:
    old = "" if new else show(getattr(row, column))
    return FieldChange(name, old, show(value))
