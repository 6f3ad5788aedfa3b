"""The contract of an adapter, with working defaults where most providers agree."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.types import ErrorKind, Headers, JSONObject, Operation, Usage


class Adapter:
    """How to talk to one provider. Stateless, shared by all requests, safe in any thread; it never does I/O.

    A subclass sets `name`, `base_url` and `operations` and overrides only what differs. An operation that the
    provider does not offer is absent from `operations`.

    Example:
        class Acme(OpenAICompatible):
            name = "acme"
            base_url = "https://api.acme.example/v1"
    """

    name: ClassVar[str]
    """What a `Provider` row names. Also the row's usual name."""
    base_url: ClassVar[str] = ""
    """Up to and with the version. Empty: every provider row must say its own."""
    provider_name: ClassVar[str] = ""
    """OpenTelemetry's `gen_ai.provider.name`; empty: the same as `name`."""
    operations: ClassVar[frozenset[Operation]]
    api_key_variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that hold a key. Empty: `<NAME>_API_KEY`."""
    chars_per_token: ClassVar[float] = 4.0
    """For estimates where the provider has not (yet) said how many tokens."""
    max_image_tokens: ClassVar[int] = 50_000
    """The most that one image can count, on any model."""
    hidden_input_tokens: ClassVar[int] = 0
    """The most that the provider adds to a request of its own accord."""
    min_output_tokens: ClassVar[int] = 1
    """The smallest cap on output that the provider accepts."""

    def path(self, operation: Operation, model: str) -> str:
        """The path below the base URL, with its leading slash."""
        raise NotImplementedError

    def headers(self, secret: str | None) -> Headers:
        """The headers that authenticate; called once per deployment, not per request."""
        raise NotImplementedError

    def usage(self, raw: JSONObject) -> Usage:
        """The provider's usage object in disjoint buckets.

        Raises:
            MalformedUsageError: it is not an object of numbers.
        """
        raise NotImplementedError

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        """What an error answer means. `body` is the parsed JSON, if it was JSON."""
        raise NotImplementedError

    def output_cap_fields(self, operation: Operation) -> tuple[str, ...]:
        """The request fields that cap output tokens, the preferred one first."""
        raise NotImplementedError
