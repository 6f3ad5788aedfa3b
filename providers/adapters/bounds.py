"""The most that a request can use, for budgets that must not be overspent: proven from its bytes, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from providers.adapters.base import Adapter
from providers.adapters.dialects._forms import FormWire, is_json, read_form
from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import JSONObject, Operation

_SAFE_PARTS = frozenset({"text", "refusal", "input_text", "output_text"})
_SAFE_TOOLS = frozenset({"function", "custom"})
_STORED = ("previous_response_id", "conversation", "web_search_options", "search_parameters", "plugins")
# Other caps, other tokens or other prices than those that are known here.
_UNCOUNTED = ("n_predict", "prediction", "chat_template", "mm_processor_kwargs", "cached_content")
_USUAL_TIERS = frozenset({"auto", "default", "flex", "standard", "standard_only"})
_NAMES = (
    *_STORED, *_UNCOUNTED, "service_tier", "audio", "input_audio", "tools", "source", "speed", "inference_geo",
    "mcp_servers", "container", "fallbacks", "thread", "compaction", "context_management",
)  # fmt: skip
# Without any of these a body is text alone: a part has a type, or at least an address. Escaped letters might spell all
# of them.
_MARKERS = (b'"type"', b'_url"', *[b'"%s"' % name.encode() for name in _NAMES], b"\\u00")

_decode = msgspec.json.Decoder().decode


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    """A message of text alone."""

    role: str
    content: str | None = None
    name: str | None = None


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    """A request of text alone, as most are: nothing else has a place in it. To read it takes a fifth of the search below."""

    model: str
    messages: list[_Said] = []
    input: str | list[str] = ""
    stream: bool | None = None
    stream_options: dict[str, bool] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    user: str | None = None


_decode_text = msgspec.json.Decoder(_Text).decode


class Bound(msgspec.Struct, frozen=True):
    """The most that a request can use."""

    input_tokens: int
    choices: int = 1
    """How many answers of the output cap's length it may bring."""


class NotBoundableError(Exception):
    """Nothing in the request says how much it can cost. The text names the reason."""


def bound(body: bytes, dialect: Dialect, adapter: Adapter, *, choices: int) -> Bound:
    """What `body` can use at most at `adapter`'s provider.

    A token is at least one byte of text, and the body has more bytes around each message than a provider adds tokens.
    Images count as the adapter's maximum each.

    Raises:
        NotBoundableError: it refers to something whose size is not in it (an image's address, a stored file or
            conversation, tools that the provider runs), or asks for another cap or price than the gateway knows.
    """
    if isinstance(dialect, FormWire) and not is_json(body):
        return _bound_of_form(body, dialect, adapter)
    beyond_text = _BEYOND_TEXT.get(dialect.name)
    if beyond_text is None:
        raise NotBoundableError(f"the format '{dialect.name}' has no bound")
    tokens = len(body) + adapter.hidden_input_tokens
    completes = dialect.operation is Operation.TEXT_COMPLETION
    if completes or dialect.name in _WITHOUT_MARKERS or _may_hold_more_than_text(body):
        request = _decode(body)
        choices *= _prompts(request.get("prompt")) if completes else 1
        tokens += beyond_text(request, adapter)
    return Bound(tokens, choices)


def _may_hold_more_than_text(body: bytes) -> bool:
    try:
        _decode_text(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _has_marker(body)
    return False


def _has_marker(body: bytes) -> bool:
    for marker in _MARKERS:  # noqa: SIM110  # A generator costs more than the search.
        if body.rfind(marker) >= 0:
            return True
    return False


def _prompts(prompt: Any) -> int:
    """A list of texts, or of lists of tokens, is answered one by one."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return len(prompt)


def _beyond_text(request: JSONObject, adapter: Adapter) -> int:
    """Tokens to add for images, less the text that encodes them."""
    for name in _STORED:
        if request.get(name) is not None:
            raise NotBoundableError(f"`{name}` brings in what is not part of the request")
    _refuse_uncounted(request)
    for tool in _objects(request.get("tools")):
        if _kind(tool) not in _SAFE_TOOLS:
            raise NotBoundableError(f"the provider runs the tool '{tool.get('type')}' itself")
    extra = 0
    for message in _objects(request.get("messages")):
        if message.get("audio") is not None:
            raise NotBoundableError("the size of an earlier answer in sound is unknown; send its text")
        for part in _objects(message.get("content")):
            extra += _part(part, adapter)
    for part in _objects(request.get("input")):
        extra += _part(part, adapter)
    return extra


def _refuse_uncounted(request: JSONObject) -> None:
    more = _object(request.get("extra_body"))
    for holder in (request, more, _object(request.get("google")), _object(more.get("google"))):
        for name in _UNCOUNTED:
            if holder.get(name) is not None:
                raise NotBoundableError(f"`{name}` changes what the provider counts")
    tier = request.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or tier not in _USUAL_TIERS):
        raise NotBoundableError(f"the `service_tier` {tier!r} may have prices of its own")


def _part(part: JSONObject, adapter: Adapter) -> int:
    kind = _kind(part)
    if kind in _SAFE_PARTS:
        return 0
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str) and url.startswith("data:"):
            return adapter.max_image_tokens - len(url)
        raise NotBoundableError("the size of an image behind an address is unknown; send it as data")
    if kind == "input_audio":
        return 0  # Sound has fewer tokens than bytes, and its bytes are counted.
    raise NotBoundableError(f"the size of a part of type '{kind}' is unknown")


# ── Anthropic's messages ──

_MESSAGES_STORED = ("mcp_servers", "container", "fallbacks", "thread", "compaction")
_MESSAGES_PRICED = ("speed", "inference_geo")
_MESSAGES_TEXT = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
# Tools that the caller runs and the provider describes to the model.
_DESCRIBED_TOOLS = ("bash_", "text_editor_", "memory_", "computer_")
_DESCRIPTION_TOKENS = 2_000
"""The most that the provider says of one of them."""


def _beyond_text_of_messages(request: JSONObject, adapter: Adapter) -> int:
    for name in _MESSAGES_STORED:
        if request.get(name) is not None:
            raise NotBoundableError(f"`{name}` brings in what is not part of the request")
    for name in _MESSAGES_PRICED:
        if request.get(name) not in (None, "standard", "global"):
            raise NotBoundableError(f"the `{name}` {request[name]!r} may have prices of its own")
    for edit in _objects(_object(request.get("context_management")).get("edits")):
        # What is cleared only makes the input smaller; a summary is written by a model and billed.
        if not str(edit.get("type")).startswith("clear_"):
            raise NotBoundableError(
                f"the edit '{edit.get('type')}' of `context_management` costs what nobody knows yet"
            )
    _refuse_uncounted(request)
    extra = sum(_described(tool) for tool in _objects(request.get("tools")))
    for message in _objects(request.get("messages")):
        extra += _blocks(message.get("content"), adapter)
    return extra + _blocks(request.get("system"), adapter)


def _described(tool: JSONObject) -> int:
    kind = tool.get("type")
    if kind is None or kind == "custom":
        return 0
    if isinstance(kind, str) and kind.startswith(_DESCRIBED_TOOLS):
        return _DESCRIPTION_TOKENS
    raise NotBoundableError(f"the provider runs the tool '{kind}' itself")


def _blocks(content: Any, adapter: Adapter) -> int:
    return sum(_block(block, adapter) for block in _objects(content))


def _block(block: JSONObject, adapter: Adapter) -> int:
    kind, source = _kind(block), _object(block.get("source"))
    if kind in _MESSAGES_TEXT or (kind == "document" and source.get("type") == "text"):
        return 0
    if kind == "tool_result":
        return _blocks(block.get("content"), adapter)
    if kind == "image" and isinstance(source.get("data"), str) and source.get("type") == "base64":
        return adapter.max_image_tokens - len(source["data"])
    raise NotBoundableError(
        f"the size of a block of type '{kind}' with a source of type '{source.get('type')}' is unknown"
    )


# ── Gemini's contents ──

_CONTENTS_KNOWN = frozenset(
    {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "labels", "model"}
    | {"serviceTier", "store", "requests", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"}
)
_CONTENTS_TEXT = frozenset(
    {"text", "thought", "thoughtSignature", "functionCall", "executableCode", "codeExecutionResult"}
)
_CONTENTS_PRICED = ("routingConfig", "modelSelectionConfig", "imageConfig")


def _beyond_text_of_contents(request: JSONObject, adapter: Adapter) -> int:
    request = plain_names(request)
    for name, value in request.items():
        if name not in _CONTENTS_KNOWN and value is not None:
            raise NotBoundableError(f"`{name}` brings in what is not part of the request")
    if str(request.get("serviceTier") or "standard").lower() not in {"standard", "flex", "unspecified"}:
        raise NotBoundableError(f"the `serviceTier` {request['serviceTier']!r} may have prices of its own")
    _refuse_priced(plain_names(_object(request.get("generationConfig"))))
    for tool in _objects(request.get("tools")):
        for name, value in plain_names(tool).items():
            if name != "functionDeclarations" and value is not None:
                raise NotBoundableError(f"the provider runs the tool '{name}' itself")
    contents = [*_objects(request.get("contents")), _object(request.get("systemInstruction"))]
    contents += [_object(each.get("content")) for each in (request, *_objects(request.get("requests")))]
    return sum(_contents_part(plain_names(part), adapter) for each in contents for part in _objects(each.get("parts")))


def _refuse_priced(config: JSONObject) -> None:
    for name in _CONTENTS_PRICED:
        if config.get(name) is not None:
            raise NotBoundableError(f"`{name}` may bring prices of its own")
    if "IMAGE" in str(config.get("responseModalities")).upper():
        raise NotBoundableError("images in answers have prices of their own")


def _contents_part(part: JSONObject, adapter: Adapter) -> int:
    names = {name for name, value in part.items() if value is not None}
    if names <= _CONTENTS_TEXT:
        return 0
    if names <= {"functionResponse", "thoughtSignature"}:
        parts = _objects(_object(part["functionResponse"]).get("parts"))
        return sum(_contents_part(plain_names(each), adapter) for each in parts)
    blob = plain_names(_object(part.get("inlineData")))
    data, kind = blob.get("data"), str(blob.get("mimeType"))
    if isinstance(data, str) and kind.startswith("image/") and names <= {"inlineData", "mediaResolution"}:
        return adapter.max_image_tokens - len(data)
    raise NotBoundableError(
        f"the size of a part of {', '.join(sorted(names))} is unknown; send text, or images as data"
    )


# ── OpenAI's responses ──

_RESPONSES_STORED = (
    "previous_response_id",
    "conversation",
    "prompt",
    "background",
    "context_management",
    "multi_agent",
)
_ITEMS_OF_TEXT = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


def _beyond_text_of_responses(request: JSONObject, adapter: Adapter) -> int:
    for name in _RESPONSES_STORED:
        if request.get(name):
            raise NotBoundableError(f"`{name}` brings in what is not part of the request")
    _refuse_uncounted(request)
    mode = _object(request.get("reasoning")).get("mode")
    if mode not in (None, "standard"):
        raise NotBoundableError(f"the reasoning mode {mode!r} may use more than one answer's tokens")
    for tool in _objects(request.get("tools")):
        if _kind(tool) not in _SAFE_TOOLS:
            raise NotBoundableError(f"the provider runs the tool '{tool.get('type')}' itself")
    return sum(_item(item, adapter) for item in _objects(request.get("input")))


def _item(item: JSONObject, adapter: Adapter) -> int:
    kind = _kind(item) if item.get("type") else "message"
    if kind in _ITEMS_OF_TEXT:
        return 0
    if kind == "reasoning" and item.get("encrypted_content"):
        return 0  # Sealed thoughts are longer than open ones.
    if kind == "message" or kind in _OUTPUTS:
        content = item.get("content") if kind == "message" else item.get("output")
        return sum(_input_part(part, adapter) for part in _objects(content))
    raise NotBoundableError(f"the size of an item of type '{kind}' is unknown")


def _input_part(part: JSONObject, adapter: Adapter) -> int:
    if part.get("type") != "input_image":
        return _part(part, adapter)
    url = part.get("image_url")
    if isinstance(url, str) and url.startswith("data:"):
        return adapter.max_image_tokens - len(url)
    raise NotBoundableError("the size of an image behind an address is unknown; send it as data")


# ── Images, speech, moderation, reranking ──


def _beyond_text_of_rerank(request: JSONObject, _adapter: Adapter) -> int:
    """The query is read with each document."""
    documents = request.get("documents")
    query = msgspec.json.encode(request.get("query"))
    return len(query) * len(documents) if isinstance(documents, list) else 0


def _beyond_text_of_media(request: JSONObject, _adapter: Adapter) -> int:
    """Images are the only thing whose size is not that of the body."""
    inputs = _objects(request.get("input"))
    if request.get("images") is not None or any(part.get("type") == "image_url" for part in inputs):
        raise NotBoundableError("the size of an image behind an address is unknown")
    return 0


def _bound_of_form(body: bytes, dialect: FormWire, adapter: Adapter) -> Bound:
    if dialect.operation is not Operation.IMAGE_GENERATION:
        raise NotBoundableError("how long the sound is can be told only by those who play it")
    images = len(read_form(body).file_spans())
    return Bound(len(dialect.text(body)) + images * adapter.max_image_tokens + adapter.hidden_input_tokens)


_WITHOUT_MARKERS = frozenset(
    {"common.rerank", "openai.moderations", "openai.images", "openai.image_edits"}
    | {"gemini.generate_content", "gemini.embed_content", "gemini.batch_embed_contents", "openai.responses"}
)
"""Always looked into."""
_BEYOND_TEXT: dict[str, Callable[[JSONObject, Adapter], int]] = {
    "openai.chat": _beyond_text,
    "mistral.chat": _beyond_text,
    "openai.completions": _beyond_text,
    "openai.embeddings": _beyond_text,
    "anthropic.messages": _beyond_text_of_messages,
    **dict.fromkeys(_WITHOUT_MARKERS, _beyond_text_of_contents),
    "common.rerank": _beyond_text_of_rerank,
    **dict.fromkeys(
        ("openai.moderations", "openai.images", "openai.image_edits", "openai.speech"), _beyond_text_of_media
    ),
    "openai.responses": _beyond_text_of_responses,
}


def _kind(holder: JSONObject) -> str:
    """Callers may write anything there."""
    return str(holder.get("type"))


def _object(value: Any) -> JSONObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JSONObject]:
    """Those of a list; one that stands alone is taken for a list of one, as some servers do."""
    if isinstance(value, dict):
        return [value]
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
