"""What the admin pages of all apps share: recorded changes, form fields, bounded lists. Knows no model of ours."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.admin.options import BaseModelAdmin
from django.contrib.admin.utils import NestedObjects, unquote
from django.contrib.admin.widgets import AutocompleteMixin, AutocompleteSelect, AutocompleteSelectMultiple
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import PaginationInlineFormSet
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from llmgateway import change_log
from llmgateway.references import referrer_of, whole_of, with_wholes
from llmgateway.searches import counted_at_most, of_found

RECENT_CHANGES = 5


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Pages of the first rows."""

    counted_rows = 10_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if isinstance(rows, QuerySet):
            return counted_at_most(rows, self.counted_rows)
        return len(rows)


class GatewayChangeList(ChangeList):  # type: ignore[misc]  # the theme has no types
    """Says how many rows were found, and offers all of them, only where a search or filter left some out."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.query or self.has_active_filters):
            self.full_result_count = self.result_count


class _ChosenIds(AutocompleteMixin):
    """Looks up what was chosen only if it can be an id. The field has refused the rest, and Django would fail on it."""

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        return super().optgroups(name, [each for each in value if _may_be_id(each)], attr)


class _ChosenId(_ChosenIds, AutocompleteSelect):
    pass


class _SeveralChosenIds(_ChosenIds, AutocompleteSelectMultiple):
    pass


class _ChosenRows(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]  # generic in the stubs alone
    """Says of a number beyond every id that it is no choice, where the database would fail."""

    def clean(self, value: Any) -> Any:
        for each in value if isinstance(value, (list, tuple)) else ():
            if not _may_be_id(each):
                raise ValidationError(
                    self.error_messages["invalid_pk_value"], code="invalid_pk_value", params={"pk": each}
                )
        return super().clean(value)


def _may_be_id(value: object) -> bool:
    text = str(value)
    return text.isascii() and text.isdecimal() and len(text) < len(str(2**63))


class SoundAutocomplete(BaseModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    """A form that comes back with its mistakes, even if somebody has put what is no id where one is chosen."""

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs.setdefault("widget", _ChosenId(db_field, self.admin_site, using=kwargs.get("using")))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs.setdefault("widget", _SeveralChosenIds(db_field, self.admin_site, using=kwargs.get("using")))
            kwargs.setdefault("form_class", _ChosenRows)
        return super().formfield_for_manytomany(db_field, request, **kwargs)


def chosen_rows(field: Any, site: Any, **kwargs: Any) -> forms.ModelMultipleChoiceField[Any]:
    """Several rows that a relation leads to, found as one types; for relations that the admin does not save itself."""
    rows = field.remote_field.model._default_manager.all()  # noqa: SLF001  # Django's own name for it.
    return _ChosenRows(rows, required=False, widget=_SeveralChosenIds(field, site), **kwargs)


class GatewayAdmin(SoundAutocomplete, ModelAdmin):  # type: ignore[misc]  # the theme has no types
    """A page whose object shows who changed it, when and how."""

    paginator = CappedPaginator
    show_full_result_count = False
    list_max_show_all = 0
    list_per_page = 30
    list_filter_submit = True
    warn_unsaved_form = True
    change_form_outer_after_template = "gateway_admin/recent_changes.html"
    empty_text = ""
    """What to say where there are no rows: what they would be for."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return GatewayChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not (search_term.strip() and self.get_search_fields(request)):
            return queryset, False
        found, _ = super().get_search_results(request, queryset, search_term)
        return of_found(found, queryset), False

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        context = {**(extra_context or {}), **self.page_context(request, object_id)}
        return super().changeform_view(request, object_id, form_url, context)

    def page_context(self, request: HttpRequest, object_id: str | None) -> dict[str, Any]:
        """What the object's page shows beside its form. Empty while it is being added, and where nobody may look."""
        instance = self.get_object(request, unquote(object_id)) if object_id else None
        if instance is None or not self.has_view_or_change_permission(request, instance):
            return {}
        changes = change_log.changes_of(instance, limit=RECENT_CHANGES + 1)
        return {"changes": changes[:RECENT_CHANGES], "more_changes": len(changes) > RECENT_CHANGES}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """As Django's, but who keeps them from being deleted is named by its page."""
        deleted, counts, lacking, protected = super().get_deleted_objects(objs, request)
        if protected:
            collector = NestedObjects(using=DEFAULT_DB_ALIAS, origin=objs)
            collector.collect(objs)
            named = {referrer_of(row): whole_of(row) for row in with_wholes(collector.protected)}
            protected = [self._linked(text, named[text]) for text in sorted(named)]
        return deleted, counts, lacking, protected

    def _linked(self, text: str, row: Model) -> str:
        """`text`, which leads to the row's page if it has one."""
        if not self.admin_site.is_registered(type(row)):
            return text
        options = row._meta  # noqa: SLF001  # Django's documented model API
        return link(reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[row.pk]), text)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        instance = self.get_object(request, unquote(object_id))
        if instance is None:
            raise Http404(f"There is no {self.opts.verbose_name} with id {object_id}.")
        if not self.has_view_or_change_permission(request, instance):
            raise PermissionDenied
        page = CappedPaginator(change_log.entries_of(instance), 50).get_page(request.GET.get("p"))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Changes: {instance}",
            "opts": self.opts,
            "object": instance,
            "original": instance,
            "page": page,
            "changes": change_log.describe(page.object_list),
            "preserved_filters": self.get_preserved_filters(request),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "gateway_admin/changes.html", context)


class ReadOnlyAdmin(GatewayAdmin):
    """A record of what happened. The gateway writes it, so people read it, and have no changes of theirs to see."""

    actions: Any = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page_context(self, request: HttpRequest, object_id: str | None) -> dict[str, Any]:
        return {"show_history": False}


class DistinctFormSet(PaginationInlineFormSet):  # type: ignore[misc]  # the theme has no types
    """Refuses two rows that agree in `distinct_fields`, which a conditional constraint would turn into a failure."""

    distinct_fields: Sequence[str] = ()

    def clean(self) -> None:
        super().clean()
        seen: set[tuple[Any, ...]] = set()
        for form in self.forms:
            values = getattr(form, "cleaned_data", {})
            if not values or values.get("DELETE"):
                continue
            row = tuple(values.get(name) for name in self.distinct_fields)
            if row in seen:
                *others, last = self.distinct_fields
                names = f"{', '.join(others)} and {last}" if others else last
                form.add_error(self.distinct_fields[0], f"Another row has the same {names}; keep one of them.")
            seen.add(row)


class GatewayInline(SoundAutocomplete, TabularInline):  # type: ignore[misc]  # the theme has no types
    """Rows that are a part of the page's object."""

    extra = 0
    hide_title = True

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        for name, field in formset.form.base_fields.items():
            # The column's head is no label to a screen reader.
            label = str(field.label or name.replace("_", " "))
            widget = getattr(field.widget, "widget", field.widget)
            widget.attrs.setdefault("aria-label", label[:1].upper() + label[1:])
        return formset


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    widget = UnfoldAdminTextareaWidget

    def __init__(self, *, placeholder: str = "", **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget({"rows": 4, "placeholder": placeholder}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(str(item) for item in value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class ObjectField(forms.JSONField):
    """An object in JSON. Left empty it has no fields."""

    def __init__(self, *, placeholder: str = "", **kwargs: Any) -> None:
        kwargs.setdefault(
            "error_messages", {"invalid": "This is not JSON; write names in quotes, and no comma at the end."}
        )
        widget = UnfoldAdminTextareaWidget({"rows": 3, "placeholder": placeholder, "spellcheck": "false"})
        super().__init__(widget=widget, required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "" if value == {} else super().prepare_value(value)

    def to_python(self, value: Any) -> Any:
        found = super().to_python(value)
        return {} if found is None else found


class AmountField(forms.CharField):
    """An exact decimal amount that is kept as an integer. `read` raises ValueError with what is wrong."""

    def __init__(self, *, read: Any, show: Any, **kwargs: Any) -> None:
        self.read, self.show = read, show
        kwargs.setdefault("widget", UnfoldAdminTextInputWidget({"inputmode": "decimal", "autocomplete": "off"}))
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return self.show(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        text = str(value or "").strip().removeprefix("$").replace(",", "")
        if not text:
            return None
        try:
            return self.read(Decimal(text))
        except ArithmeticError:
            raise ValidationError(f"{value} is not an amount; write one such as 0.15") from None
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(initial != self.to_python(data))
        except ValidationError:
            return True


def badge(text: str, tone: str) -> SafeString:
    """A small coloured label: `good`, `warning`, `bad` or `neutral`."""
    return format_html('<span class="gw-badge gw-{}">{}</span>', tone, text)


def link(url: str, text: str) -> SafeString:
    return format_html('<a class="gw-link" href="{}">{}</a>', url, text)


def errors_of(error: ValidationError) -> str:
    """All messages of `error` in one sentence, for a notice above the page."""
    return " ".join(error.messages)
