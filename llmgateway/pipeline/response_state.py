"""What `previous_response_id` refers to: responses that a provider keeps, or, where it speaks another dialect, the gateway.

Ids of the first kind are in the object book, so that no team reaches another's. Of the second kind the gateway keeps
what was said, if the operator wants that. Both are written after the answer, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec

from llmgateway.pipeline.errors import BadRequestError, LedgerUnavailableError, NotFoundError, RequestTooLargeError
from llmgateway.pipeline.kept_turns import Turn, going_on, pack, unpack
from llmgateway.pipeline.protocols import KeptResponse, ObjectBook, Owner, ResponseShelf
from llmgateway.pipeline.requests import ModelRequest, State
from llmgateway.pipeline.response_witness import ResponseWitness
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.snapshot import ForeignKey, Key, Snapshot
from providers.adapters.dialects.openai_responses import Reference, read_reference

logger = logging.getLogger(__name__)

MOST_KEPT_BYTES = 8 * 2**20
"""A response and its request together; larger ones are not kept."""
MOST_WAITING_BYTES = 64 * 2**20
"""Of responses that are on their way to the database. What comes on top of that is not kept."""
LOOKS_S = (0.0, 0.05, 0.25)
"""Another worker may be writing the response that a client goes on from at once; so an unknown one is looked for again."""


class Found(NamedTuple):
    """Where a response is kept."""

    owner: Owner
    """Its provider is empty: here."""
    previous_id: str = ""


class ResponseState:
    """Looks up and keeps the responses of one process. Used from the event loop alone.

    `shelf` is None where the operator wants nothing to be kept here.
    """

    def __init__(self, book: ObjectBook, shelf: ResponseShelf | None = None) -> None:
        self.book = book
        self.shelf = shelf
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._waiting_bytes = 0

    async def prepared(self, request: ModelRequest, key: Key, snapshot: Snapshot, *, native: bool) -> ModelRequest:
        """`request` with what it goes on from. Below a provider's prefix, that may be a response of which nothing is known.

        Raises:
            NotFoundError: the response is not there, or another team's.
            BadRequestError: nobody keeps responses of this model.
            RequestTooLargeError: the conversation is larger than a body may be.
        """
        asked, mine = read_reference(request.body), owner_of(key)
        if asked.items and not (isinstance(key, ForeignKey) and key.is_stranger):
            await self.check_items(asked.items, key, native=native)
        is_kept = asked.store is not False
        state = State(
            is_kept=is_kept and self.shelf is not None,
            witness=ResponseWitness(self, mine, asked.previous_response_id, request.body) if is_kept else None,
        )
        if not asked.previous_response_id and not asked.conversation:
            return msgspec.structs.replace(request, state=state)
        held_by = await self._holder(asked, mine, request, snapshot, native=native)
        if asked.conversation or held_by is None or held_by:
            state = msgspec.structs.replace(state, follows=asked.previous_response_id, held_by=held_by or "")
            return msgspec.structs.replace(request, state=state)
        state = msgspec.structs.replace(state, follows=asked.previous_response_id)
        turns = await self.turns(asked.previous_response_id, most_bytes=snapshot.request_body_limit)
        if not turns:
            raise not_found(asked.previous_response_id)
        body = await asyncio.to_thread(going_on, request.body, turns)
        if len(body) > snapshot.request_body_limit:
            raise _too_long(snapshot.request_body_limit)
        head = request.dialect.read_head(body, model=request.head.model, stream=request.head.stream)
        return msgspec.structs.replace(request, body=body, head=head, state=state)

    async def _holder(
        self, asked: Reference, mine: Owner, request: ModelRequest, snapshot: Snapshot, *, native: bool
    ) -> str | None:
        """The provider that keeps what `asked` refers to; empty: the gateway does. None: that is for the provider to say."""
        wanted = asked.previous_response_id or asked.conversation
        found = await self.find(wanted)
        if found is not None and found.owner.shares_with(mine):
            return found.owner.provider
        if found is not None or (not native and self._keeps_any(request, snapshot)):
            raise not_found(wanted, param="previous_response_id" if asked.previous_response_id else "conversation")
        if not native and asked.previous_response_id:
            raise BadRequestError(
                f"Nobody keeps responses of the model '{request.head.model}': its provider does not, and this gateway is "
                "not set to. Send the whole input, or ask an admin to set RESPONSES_RETENTION_HOURS.",
                code="previous_response_not_kept",
                param="previous_response_id",
            )
        return None

    def _keeps_any(self, request: ModelRequest, snapshot: Snapshot) -> bool:
        """Whether a response of this model can have been kept anywhere. Unknown models are refused later."""
        alias = snapshot.aliases.get(request.head.model)
        if self.shelf is not None or alias is None:
            return self.shelf is not None
        return any(each.adapter.dialect_for(request.dialect) is request.dialect for each in alias.deployments)

    async def find(self, response_id: str) -> Found | None:
        """Where a response is kept, and whose it is."""
        for pause_s in LOOKS_S:
            await asyncio.sleep(pause_s)
            if (writing := self._writing.get(response_id)) is not None:
                await asyncio.wait([writing])
            kept = None if self.shelf is None else await self.shelf.last(response_id)
            if kept is not None:
                return Found(kept.owner, kept.previous_id)
            owner = (await self.book.owners([response_id])).get(response_id)
            if owner is not None:
                return Found(owner)
        return None

    async def turns(self, response_id: str, *, most_bytes: int) -> list[Turn]:
        """A conversation up to this response, oldest first; empty if it is not all there any more."""
        if self.shelf is None:
            return []
        try:
            kept = await self.shelf.conversation(response_id, most_bytes=most_bytes)
        except RequestTooLargeError:
            raise _too_long(most_bytes) from None
        return await asyncio.to_thread(lambda: [unpack(each.packed, most_bytes=each.size) for each in kept])

    async def turn(self, response_id: str) -> Turn | None:
        """The one response; None if it is not there any more."""
        kept = None if self.shelf is None else await self.shelf.last(response_id, with_content=True)
        return None if kept is None else await asyncio.to_thread(unpack, kept.packed, most_bytes=kept.size)

    async def remove(self, response_id: str) -> None:
        """Nobody can go on from it, or from one that went on from it."""
        if self.shelf is not None:
            await self.shelf.remove(response_id)

    async def stop(self) -> None:
        """What is being kept is kept."""
        if self._writing:
            await asyncio.wait(set(self._writing.values()))

    # What witnesses report.

    def held_elsewhere(self, ids: Sequence[str], owner: Owner) -> None:
        """A provider has answered and keeps the response, its items, or both."""
        fresh = [each for each in dict.fromkeys(ids) if each not in self._writing]
        if fresh:
            self._write(fresh, self.book.remember(fresh, owner), 0)

    async def check_items(self, ids: Sequence[str], key: Key, *, native: bool) -> None:
        """Raises NotFoundError: an item that is referred to is another team's or, but for native calls, of nobody here."""
        mine, wanted = owner_of(key), set(ids)
        for pause_s in LOOKS_S:
            await asyncio.sleep(pause_s)
            if writing := [self._writing[each] for each in wanted if each in self._writing]:
                await asyncio.wait(writing)
            known = await self.book.owners(wanted)
            foreign = {each for each, owner in known.items() if not owner.shares_with(mine)}
            if foreign or native or known.keys() == wanted:
                break
        unknown = set() if native else wanted - known.keys()
        for each in sorted(foreign | unknown):
            raise NotFoundError(
                f"There is no item '{each[:200]}' of a response that a key of your team has made through this gateway. "
                "Send the item itself in place of the `item_reference`.",
                code="item_not_found",
                param="input",
            )

    def keep(self, response_id: str, owner: Owner, *, previous_id: str, body: bytes, answer: bytes) -> None:
        """An answer was translated, so that nobody keeps it unless it is here."""
        size = len(body) + len(answer)
        if self.shelf is None:
            return
        if size > MOST_KEPT_BYTES or self._waiting_bytes + size > MOST_WAITING_BYTES:
            logger.warning("a response of %d bytes is not kept: more than is kept of one, or at a time", size)
            return
        kept = KeptResponse(response_id, owner, previous_id)
        self._write([response_id], self._shelve(self.shelf, kept, body, answer), size)

    async def _shelve(self, shelf: ResponseShelf, kept: KeptResponse, body: bytes, answer: bytes) -> None:
        packed, size = await asyncio.to_thread(pack, body, answer)
        await shelf.put(msgspec.structs.replace(kept, packed=packed, size=size))

    def _write(self, ids: Sequence[str], work: Coroutine[Any, Any, None], size: int) -> None:
        async def write() -> None:
            try:
                await work
            except (LedgerUnavailableError, ValueError) as error:
                # The answer is with the client: all that is lost is that another request can go on from it.
                logger.warning("a response could not be kept: %s", error)
            finally:
                for each in ids:
                    del self._writing[each]
                self._waiting_bytes -= size

        self._waiting_bytes += size
        if ids[0] in self._writing:
            work.close()  # The same id twice: the first one is being written.
            self._waiting_bytes -= size
            return
        self._writing.update(dict.fromkeys(ids, asyncio.create_task(write())))


def held(routed: Routed, request: ModelRequest) -> Routed:
    """`routed` as far as it leads to the provider that keeps what the request goes on from.

    Raises:
        BadRequestError: it does not lead there at all.
    """
    held_by = "" if request.state is None else request.state.held_by
    if not held_by:
        return routed
    candidates = tuple([each for each in routed.candidates if each.provider == held_by])
    if not candidates:
        raise BadRequestError(
            f"The provider '{held_by}' keeps what the request goes on from, and no deployment of the model "
            f"'{routed.alias.name}' is there. Call a model that is, or send the whole input.",
            param="previous_response_id",
        )
    return routed._replace(candidates=candidates)


def owner_of(key: Key, provider: str = "") -> Owner:
    """Who has what `key` makes. What a caller's own key makes is in another account: it belongs to that key, whoever brings it.

    Were it the team's, a name taken there would open what another team has under that name in the gateway's account.
    """
    if isinstance(key, ForeignKey):
        return Owner(provider, 0, key.digest)
    return Owner(provider, key.team_id, key.id)


def not_found(response_id: str, *, param: str | None = "previous_response_id") -> NotFoundError:
    """The same whether there is none, it was removed, or it is another team's."""
    return NotFoundError(
        f"There is no response '{response_id[:200]}' that a key of your team has made through this gateway and that is "
        "still kept. Send the whole input instead.",
        code="previous_response_not_found",
        param=param,
    )


def _too_long(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"With what was said before, the request is larger than {limit // 2**20} MB. Begin a new conversation, or ask an "
        "admin to raise the limit."
    )
