"""What tests of imports have in common."""

from __future__ import annotations

from django.test.utils import CaptureQueriesContext

from tests.llmgateway.config_file.conftest import load

ROUTES = """\
providers:
  openai: {credentials: [{name: main, api_key: sk-test}]}
deployments:
  a: {provider: openai, credential: main, model: gpt-4o-mini}
  b: {provider: openai, credential: main, model: gpt-4o}
aliases:
  small: {targets: [{deployment: a}]}
"""


def summary(text: str, **options: bool) -> str:
    return load(text, **options).summary()


def written(context: CaptureQueriesContext) -> list[str]:
    return [
        query["sql"]
        for query in context.captured_queries
        if query["sql"].split()[0].upper() not in {"SELECT", "SAVEPOINT", "RELEASE", "BEGIN", "COMMIT", "ROLLBACK"}
    ]
