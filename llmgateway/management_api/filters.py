"""Search, order and filters of lists. A parameter that is none is refused: a misspelt filter would show everything."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django_filters import rest_framework as django_filters
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.request import Request

from llmgateway.searches import of_found


class IdFilter(django_filters.Filter):  # type: ignore[misc]  # the library has no types
    """A whole number that the database can hold."""

    field_class = forms.IntegerField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, min_value=0, max_value=2**63 - 1, **kwargs)


class NameFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")


class Filters(django_filters.DjangoFilterBackend):  # type: ignore[misc]  # the library has no types
    """The view's `filterset_class`."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        filterset_class = self.get_filterset_class(view, queryset)
        refuse_unknown(request, view, set(filterset_class.base_filters) if filterset_class else set())
        found: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return found


class Search(SearchFilter):
    """Rows in whose `search_fields` every word is found, or which the view's `matching` knows a quicker way to."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        words = self.get_search_terms(request)
        if not words or not self.get_search_fields(view, request):
            return queryset
        if (matching := getattr(view, "matching", None)) is None:
            return of_found(super().filter_queryset(request, queryset, view), queryset)
        found = queryset
        for word in words:
            found = found.filter(matching(word))
        return of_found(found, queryset)


def refuse_unknown(request: Request, view: Any, filters: set[str]) -> None:
    """Raises ValidationError for a query parameter that means nothing here."""
    known = set(filters)
    if view.action == "list" or getattr(view, "paginator", None):
        known |= {"page", "page_size", "cursor"}
    known |= {"search"} if getattr(view, "search_fields", None) else set()
    known |= {"ordering"} if getattr(view, "ordering_fields", None) else set()
    for name in request.query_params:
        if name not in known:
            raise ValidationError({name: f"There is no such parameter here; there are {', '.join(sorted(known))}."})


class Ordering(OrderingFilter):
    """By the view's `ordering_fields`, and then by id, so that pages neither repeat nor skip rows."""

    def get_ordering(self, request: Request, queryset: QuerySet[Any], view: Any) -> Any:
        found = list(super().get_ordering(request, queryset, view) or ())
        return [*found, "id"] if found else found

    def remove_invalid_fields(self, queryset: QuerySet[Any], fields: Any, view: Any, request: Request) -> list[str]:
        valid = super().remove_invalid_fields(queryset, fields, view, request)
        if wrong := [field for field in fields if field not in valid]:
            raise ValidationError(
                {
                    "ordering": f"{wrong[0]} is no order; choose of {', '.join(view.ordering_fields)}, with - to turn it round."
                }
            )
        return list(valid)


__all__ = ["Filters", "IdFilter", "NameFilters", "Ordering", "Search", "refuse_unknown"]
