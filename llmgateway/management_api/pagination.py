"""How lists are cut. None is ever sent whole."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination, PageNumberPagination

PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Pages(PageNumberPagination):
    """Numbered pages, with the count of all rows."""

    page_size = PAGE_SIZE
    max_page_size = MAX_PAGE_SIZE
    page_size_query_param = "page_size"


class NewestFirst(CursorPagination):
    """For tables too large to count: each page names the next. Rows that arrive meanwhile shift nothing."""

    page_size = PAGE_SIZE
    max_page_size = MAX_PAGE_SIZE
    page_size_query_param = "page_size"
    ordering = ("-started_at", "-id")
