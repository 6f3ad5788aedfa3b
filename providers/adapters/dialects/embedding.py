"""What is asked of an embedding model and what it answers, in words that every embedding protocol can be read into."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from providers.adapters.types import Usage


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """Texts to embed. Absent settings are the provider's defaults."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    """Each a text, or a text that was cut into tokens before; tokens mean something to one model only."""
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    """How vectors are written: as numbers, or as the base64 of 32-bit floats in little-endian order."""
    task_type: str = ""
    """What the vectors are for, in Google's words: `RETRIEVAL_QUERY`, `RETRIEVAL_DOCUMENT` …"""
    title: str = ""
    """Of the document."""
    user: str = ""
    extra: dict[str, Any] = {}
    """Top-level fields that only `dialect` has a word for."""
    dialect: str = ""
    """In which it was read."""

    @property
    def stream(self) -> bool:
        """Vectors come at once."""
        return False

    @property
    def tools(self) -> tuple[()]:
        """There is nobody to call any."""
        return ()

    @property
    def max_output_tokens(self) -> None:
        """There is no output to cap."""
        return


class EmbeddingReply(msgspec.Struct, frozen=True):
    model: str
    vectors: tuple[list[float], ...]
    """In the order of the inputs."""
    usage: Usage | None = None
    """None: the provider did not say."""
