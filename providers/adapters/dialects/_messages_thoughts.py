"""Thoughts in Anthropic's Messages, and those of other dialects on their way through its clients.

A client sends `signature` and `data` back as it got them, without reading them. So the proofs of other dialects travel
in `signature`, marked, and reach the provider that they came from.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from providers.adapters.dialects.conversation import Reasoning
from providers.adapters.types import JSONObject

_MARK = "gateway.1:"


class _Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another dialect wants to see again."""

    dialect: str
    signature: str = ""
    encrypted: str = ""
    id: str = ""
    summary: bool = False


_decode_proof = msgspec.json.Decoder(_Proof).decode


def read_thinking(text: str, signature: str, dialect: str) -> Reasoning:
    """A `thinking` block of `dialect`. Without a signature it is nobody's."""
    if (foreign := read_proof(text, signature)) is not None:
        return foreign
    return Reasoning(text, signature, dialect=dialect if signature else "")


def read_proof(text: str, signature: str) -> Reasoning | None:
    """The thoughts whose proof another dialect hid in `signature`; None: it is no such proof."""
    if not signature.startswith(_MARK) or (proof := _read_proof(signature)) is None:
        return None
    return Reasoning(text, proof.signature, proof.encrypted, proof.id, proof.summary, proof.dialect)


def read_redacted(data: str, dialect: str) -> Reasoning:
    return Reasoning(encrypted=data, dialect=dialect)


def write_thoughts(block: Reasoning, dialect: str) -> list[JSONObject]:
    """As blocks of `dialect`."""
    if block.dialect == dialect and block.encrypted:
        return [{"type": "redacted_thinking", "data": block.encrypted}]
    return [{"type": "thinking", "thinking": block.text, "signature": signature_of(block, dialect)}]


def signature_of(block: Reasoning, dialect: str) -> str:
    """What stands in `signature`: its own, or what another dialect wants to see again."""
    if block.dialect == dialect or not (block.signature or block.encrypted or block.id):
        return block.signature
    proof = _Proof(block.dialect, block.signature, block.encrypted, block.id, block.summary)
    return _MARK + base64.b64encode(msgspec.json.encode(proof)).decode()


def _read_proof(signature: str) -> _Proof | None:
    try:
        return _decode_proof(base64.b64decode(signature.removeprefix(_MARK), validate=True))
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError):
        return None
