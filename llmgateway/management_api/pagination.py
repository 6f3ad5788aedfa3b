"""How lists are cut. None is ever sent whole."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from rest_framework.pagination import CursorPagination, PageNumberPagination

PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class IdsFirst(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Cuts a page out of ids, and reads its rows then: what stands beside them is joined for no others."""

    def page(self, number: Any) -> Page[Any]:
        rows = self.object_list
        if not isinstance(rows, QuerySet) or self.count <= self.per_page:
            return super().page(number)
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        ids = list(rows.values_list("pk", flat=True)[start : start + self.per_page])
        found = rows.in_bulk(ids)
        return Page([found[pk] for pk in ids if pk in found], number, self)


class Pages(PageNumberPagination):
    """Numbered pages, with the count of all rows."""

    django_paginator_class = IdsFirst
    page_size = PAGE_SIZE
    max_page_size = MAX_PAGE_SIZE
    page_size_query_param = "page_size"


class NewestFirst(CursorPagination):
    """For tables too large to count: each page names the next. Rows that arrive meanwhile shift nothing."""

    page_size = PAGE_SIZE
    max_page_size = MAX_PAGE_SIZE
    page_size_query_param = "page_size"
    ordering = ("-started_at", "-id")
