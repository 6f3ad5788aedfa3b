"""What would become of a request, without its being sent."""

from __future__ import annotations

from typing import Any

import msgspec
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from llmgateway.explain.from_ledger import question_of
from llmgateway.explain.here import NotServingError, explain_here
from llmgateway.explain.question import PATHS, Question
from llmgateway.management_api.permissions import HasScope

_AS_THEY_ARE = ("model", "client_ip", "path", "headers", "end_user")


class QuestionSerializer(serializers.Serializer[Any]):
    """Say a key (its secret or its id) and a model, or a request of the ledger."""

    key = serializers.CharField(
        required=False, write_only=True, max_length=500, help_text="The secret of a key. It is looked up and forgotten."
    )
    key_id = serializers.CharField(required=False, max_length=64, help_text="In place of the secret: the key's id.")
    request_id = serializers.CharField(
        required=False, max_length=64, help_text="A request of the ledger: the same once more. Other fields change it."
    )
    model = serializers.CharField(required=False, max_length=200)
    client_ip = serializers.IPAddressField(required=False, help_text="Where it comes from. By default 127.0.0.1.")
    path = serializers.ChoiceField(PATHS, required=False, help_text="Which protocol it is written in.")
    body = serializers.JSONField(required=False, help_text="The request's body. By default the plainest one.")
    headers = serializers.DictField(
        child=serializers.CharField(max_length=4_096, allow_blank=True),
        required=False,
        help_text="Those that the gateway looks at: `x-end-user-id`, `x-session-id` and the like.",
    )
    end_user = serializers.CharField(required=False, max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "request_id" not in attrs:
            if "model" not in attrs:
                raise serializers.ValidationError({"model": "Name a model, or a `request_id`."})
            if not ("key" in attrs or "key_id" in attrs):
                raise serializers.ValidationError({"key": "Give the secret of a key, a `key_id`, or a `request_id`."})
        if "key" in attrs and "key_id" in attrs:
            raise serializers.ValidationError({"key": "Give either a secret or a `key_id`."})
        return attrs


class NotServing(APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_code = "not_serving"


class ExplainView(APIView):
    """Takes a request through everything that would happen before its first upstream call; nothing is sent or taken.

    The worker that is asked answers, by its own view of health and load.
    """

    permission_classes = [HasScope]
    read_scope = write_scope = "explain:read"

    @extend_schema(operation_id="explain", request=QuestionSerializer, responses={200: OpenApiTypes.OBJECT})
    def post(self, request: Request) -> Response:
        serializer = QuestionSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        question = asked(serializer.validated_data)
        if question is None:
            raise NotFound("The ledger has no request of this id, or not yet.")
        try:
            answer = explain_here(question)
        except NotServingError as error:
            raise NotServing(str(error)) from None
        return Response(answer, headers={"Cache-Control": "no-store"})


def asked(given: dict[str, Any]) -> Question | None:
    """What is to be explained; None: the request that is named is unknown."""
    changes: dict[str, Any] = {name: given[name] for name in _AS_THEY_ARE if name in given}
    if "body" in given:
        changes["body"] = msgspec.json.encode(given["body"])
    if "key" in given:
        changes |= {"secret": given["key"].encode(), "key_id": ""}
    elif "key_id" in given:
        changes |= {"key_id": given["key_id"], "secret": b""}
    if not given.get("request_id"):
        return Question(**changes)
    found = question_of(given["request_id"])
    if found is None:
        return None
    if "body" in changes:
        changes["input_tokens"] = None
    return msgspec.structs.replace(found, **changes)
