"""Tokens that are counted where a provider reported none, if a tokenizer is installed: the extra `tokens`.

It knows OpenAI's encodings alone, so that for any other model a count is an estimate as well, and rows say so. What is
counted is bounded, for it happens on the event loop, where requests are settled.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from providers.adapters.dialects.base import Dialect, StreamReader, StreamScanner
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.dialects.reply import Failed
from providers.adapters.dialects.texts import texts_of_answer, texts_of_event, texts_of_request
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.types import JSONObject

logger = logging.getLogger(__name__)

ENCODING = "o200k_base"
COUNTED_CHARACTERS = 65_536
"""So many take two milliseconds. Of longer texts as many are counted, and the rest is taken to be like them."""
PIECE_CHARACTERS = 8_192
TOKENS_A_MESSAGE = 4
"""What OpenAI has around each: https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken."""
TOKENS_BEFORE_ANSWER = 3
STREAM_PIECE_CHARACTERS = 4_096
"""The text of a stream is counted whenever there is so much of it."""

_PACKAGE = "bpe_openai"
_UNREADABLE = (MalformedAnswerError, KeyError, RecursionError)


class TokenCounter:
    """Counts for one process, on its event loop. It also remembers who does not report usage."""

    def __init__(
        self, count: Callable[[str], int] | None, load: Callable[[], Callable[[str], int] | None] | None = None
    ) -> None:
        """`count` says how many tokens a text has that can be encoded; `load` brings it when it is first needed."""
        self._count = count
        self._load = load
        self.silent: set[int] = set()
        """Ids of deployments whose latest complete stream came without usage: the next one is listened to."""

    def texts(self, texts: Sequence[str]) -> int:
        """Tokens of all together; of more than `COUNTED_CHARACTERS` about so many."""
        text = "\n".join(texts)
        if len(text) <= COUNTED_CHARACTERS:
            return self._exactly(text)
        pieces = COUNTED_CHARACTERS // PIECE_CHARACTERS
        step = (len(text) - PIECE_CHARACTERS) / (pieces - 1)
        sample = [text[int(step * number) : int(step * number) + PIECE_CHARACTERS] for number in range(pieces)]
        return round(sum(map(self._exactly, sample)) * len(text) / COUNTED_CHARACTERS)

    def request(self, body: bytes) -> int | None:
        """Tokens of what a request says; None: that must be estimated in another way."""
        asked = texts_of_request(body)
        if asked is None or not self._can_count():
            return None
        around = asked.messages * TOKENS_A_MESSAGE + TOKENS_BEFORE_ANSWER if asked.messages else 0
        return self.texts(asked.texts) + asked.tokens + around

    def answer(self, dialect: Dialect, body: bytes) -> int | None:
        """The same of a whole answer."""
        said = texts_of_answer(dialect, body)
        return None if said is None or not self._can_count() else self.texts(said)

    def listening(self, scanner: StreamScanner, dialect: Dialect, deployment_id: int) -> StreamScanner:
        """`scanner`, which also counts where the deployment's streams are known to bring no usage."""
        if deployment_id not in self.silent or not dialect.translates or not self._can_count():
            return scanner
        return CountingScanner(scanner, dialect.stream_reader(), self)

    def note(self, deployment_id: int, *, reported: bool) -> None:
        """A stream of the deployment is complete."""
        if reported:
            self.silent.discard(deployment_id)
        else:
            self.silent.add(deployment_id)

    def _exactly(self, text: str) -> int:
        # JSON may hold halves of characters, which no encoding knows.
        if not self._can_count() or self._count is None:
            raise RuntimeError("there is nothing to count tokens with; ask `request` and `answer`, which say so")
        return self._count(text.encode("utf-8", "replace").decode()) if text else 0

    def _can_count(self) -> bool:
        if self._load is not None:
            self._count, self._load = self._load(), None
        return self._count is not None


class CountingScanner:
    """A `StreamScanner` that does what another one does, and counts the tokens of what goes by."""

    def __init__(self, scanner: StreamScanner, reader: StreamReader, counter: TokenCounter) -> None:
        self._scanner = scanner
        self._reader: StreamReader | None = reader
        self._counter = counter
        self._unread: list[str] = []
        self._counted = 0
        self._follow()

    @property
    def begun_usage_raw(self) -> JSONObject | None:
        return begun_usage(self._scanner)

    def feed(self, chunk: bytes) -> bytes:
        if self._reader is not None:
            self._hear(self._reader, chunk)
        onward = self._scanner.feed(chunk)
        self._follow()
        return onward

    def finish(self) -> bytes:
        last = self._scanner.finish()
        self._follow()
        return last

    def estimated_output(self, chars_per_token: float) -> int:
        if self._reader is None:
            return self._scanner.estimated_output(chars_per_token)
        return self._counted + self._counter.texts(["".join(self._unread)])

    def _follow(self) -> None:
        """What the other one knows now."""
        scanner = self._scanner
        self.usage_raw, self.response_model, self.error = scanner.usage_raw, scanner.response_model, scanner.error
        self.done, self.first_token = scanner.done, scanner.first_token

    def _hear(self, reader: StreamReader, chunk: bytes) -> None:
        try:
            for event in reader.feed(chunk):
                if isinstance(event, Failed):
                    self._reader = None  # Whatever comes now goes unread, so it is estimated like any other stream.
                    return
                self._unread += texts_of_event(event)
        except _UNREADABLE:
            self._reader = None
            return
        if sum(map(len, self._unread)) >= STREAM_PIECE_CHARACTERS:
            self._counted += self._counter.texts(["".join(self._unread)])
            self._unread = []


@functools.cache
def installed_counter() -> TokenCounter | None:
    """The one of this process; None: no tokenizer is installed.

    It is loaded when a provider has first said nothing of usage: that takes 0.2 s, once, and 70 MB that others need not have.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    return TokenCounter(None, lambda: _usable_count(folder))


def _usable_count(folder: Path) -> Callable[[str], int] | None:
    try:
        return _native_count(folder)
    except Exception:
        logger.warning(
            "%s is installed and cannot be used: tokens are estimated. Install the version in constraints.txt.",
            _PACKAGE,
            exc_info=True,
        )
        return None


def _native_count(folder: Path) -> Callable[[str], int]:
    """Its extension module alone: the package around it takes a second and 75 MB more for what is not needed here."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = folder / f"_bindings{suffix}"
        if file.exists():
            name = f"{_PACKAGE}._bindings"
            loader = importlib.machinery.ExtensionFileLoader(name, str(file))
            spec = importlib.util.spec_from_file_location(name, file, loader=loader)
            if spec is None:
                break
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            count: Callable[[str], int] = module.tokenizer_for_encoding(ENCODING).count
            count("The first one loads the encoding.")
            return count
    raise ImportError(f"{folder} has no extension module")
