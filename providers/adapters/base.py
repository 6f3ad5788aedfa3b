"""The contract of an adapter, with working defaults where most providers agree."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from providers.adapters.addresses import native_url
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation, Signer, Usage


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
    vendor: ClassVar[str] = ""
    """The word for its models in the simple API, where callers name no model but who made it; empty: there is none."""
    task_type: ClassVar[str] = ""
    """The kind of task that it is asked for when the gateway starts first, until somebody decides otherwise."""
    operations: ClassVar[frozenset[Operation]]
    api_key_variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that hold a key. Empty: `<NAME>_API_KEY`."""
    base_url_parameters: ClassVar[frozenset[str]] = frozenset()
    """Query parameters that a provider row's address may have; `url` puts them behind the path."""
    takes_stream_options: ClassVar[bool] = True
    """Whether streams may be asked for usage; where not, no deployment of it asks."""
    extensions: ClassVar[frozenset[str]] = frozenset()
    """What it understands beyond the core of its dialects, as in `Limits.extensions`."""
    chars_per_token: ClassVar[float] = 4.0
    """For estimates where the provider has not (yet) said how many tokens."""
    reported_cost_field: ClassVar[str] = ""
    """The field of its usage object in which the provider says what the call cost in US dollars; empty: it does not."""
    keeps: ClassVar[frozenset[str]] = frozenset()
    """What it keeps for callers in OpenAI's form: `files`, `batches`, `fine_tuning`, `vector_stores`, `uploads`."""
    keeps_natively: ClassVar[frozenset[str]] = frozenset()
    """What it keeps in forms of its own: the segments of paths behind which an id stands, such as `messages/batches`."""
    makes_natively: ClassVar[Mapping[str, str]] = {}
    """How paths end that make one of those without standing where it is kept, and which: such as `:batchGenerateContent`."""
    own_paths: ClassVar[frozenset[str]] = frozenset()
    """How paths below the version begin that no other provider has: they are its own on the gateway's root too."""
    trial_model: ClassVar[str] = ""
    """A cheap model with tools, for `./gateway test --live` and the simple API; empty: whoever tries it names one."""
    max_image_tokens: ClassVar[int] = 50_000
    """The most that one image can count, on any model."""
    hidden_input_tokens: ClassVar[int] = 0
    """The most that the provider adds to a request of its own accord."""
    min_output_tokens: ClassVar[int] = 1
    """The smallest cap on output that the provider accepts."""

    def dialects(self) -> tuple[str, ...]:
        """The names of the wire formats that it understands, of each operation the preferred one first."""
        raise NotImplementedError

    def dialect_for(self, inbound: Dialect) -> Dialect | None:
        """In which dialect to ask for what came in `inbound`; None: there is no way.

        The same one if the provider understands it, so that nothing need be translated; else the preferred one of the
        same operation, if both can be translated.
        """
        return _outbound(self, inbound)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        """The path below the base URL, with its leading slash, and a query if there must be one."""
        raise NotImplementedError

    def url(self, base_url: str, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        """The whole address, for a provider row's `base_url`."""
        return base_url + self.path(dialect, model, stream=stream)

    def adapted(self, dialect: Dialect, body: bytes) -> bytes:
        """A request's body with what this provider wants to be otherwise than the dialect has it."""
        return body

    def native_call(self, path: str) -> NativeCall | None:
        """What a `POST` to `path` of its own API asks; None: nothing that the gateway understands."""
        for name in self.dialects():
            if path.endswith(self.path(get_dialect(name), "")):
                return NativeCall(name, path)
        return None

    def native_url(self, base_url: str, target: str) -> str:
        """The whole address of a path, query included, of the provider's own API."""
        return native_url(base_url, target)

    def models_url(self, base_url: str) -> str:
        """Where the provider lists its models; asked to test a connection."""
        return base_url + "/models"

    def headers(self, secret: str | None) -> Headers:
        """The headers that authenticate; called once per deployment, not per request."""
        raise NotImplementedError

    def signer(self, secret: str | None) -> Signer | None:
        """What makes the headers that differ from request to request; None: `headers` are all there are."""
        return None

    def usage(self, raw: JSONObject, dialect: Dialect) -> Usage:
        """The provider's usage object, which came in `dialect`, in disjoint buckets.

        Raises:
            MalformedUsageError: it is not an object of numbers.
        """
        return dialect.usage(raw)

    def reported_cost_usd(self, raw: JSONObject) -> str | None:
        """What the provider says that the call cost, from its usage object; None: it does not say."""
        cost = raw.get(self.reported_cost_field) if self.reported_cost_field else None
        return str(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) and cost >= 0 else None

    def searches_unasked(self, model: str) -> bool:
        """Whether a model looks things up although the request holds no tool for it."""
        return False

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        """What an error answer means. `body` is the parsed JSON, if it was JSON."""
        raise NotImplementedError

    def output_cap_fields(self, dialect: Dialect) -> tuple[str, ...]:
        """Those of the dialect's fields that cap output and that the provider obeys, the preferred one first."""
        return dialect.output_cap_fields


@functools.cache
def _outbound(adapter: Adapter, inbound: Dialect) -> Dialect | None:
    if inbound.operation is Operation.PASSTHROUGH:
        return inbound
    spoken = [get_dialect(name) for name in adapter.dialects()]
    if inbound in spoken:
        return inbound
    if inbound.translates and inbound.translates_requests:
        return next((each for each in spoken if each.translates and each.operation is inbound.operation), None)
    return None
