"""The schema, the page that shows it, and the answer for paths that are none."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http.response import HttpResponseBase
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import NotFound
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from llmgateway.management_api.permissions import Known


class SchemaView(SpectacularAPIView):
    """The OpenAPI document, for everybody who is known."""

    renderer_classes = [JSONRenderer]
    permission_classes = [Known]


class DocsView(SpectacularSwaggerSplitView):
    """Swagger's page, for people who are logged in; its script comes from here and stands in no page."""

    url_name = "management-api-schema"
    authentication_classes = [SessionAuthentication]
    permission_classes = [Known]
    throttle_classes: list[Any] = []

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        return super().dispatch(request, *args, **kwargs)


class NotFoundView(APIView):
    """Any other path below the API's."""

    permission_classes = [Known]

    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound(f"There is no {request.path}. /manage/api/v1/schema tells what there is.")
