"""Files and batches of the fake provider. A batch is done when it is asked for first."""

from __future__ import annotations

import email.parser
import email.policy
import itertools
import json
from collections.abc import Callable

from providers.adapters.types import JSONObject
from providers.fake_server.answers import CREATED

Complete = Callable[[JSONObject], JSONObject]
"""Answers one line of a batch."""


class Storage:
    """What one fake provider keeps, in memory."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)  # Ids are never given twice, whatever is forgotten.
        self.clear()

    def clear(self) -> None:
        self._files: dict[str, JSONObject] = {}
        self._contents: dict[str, bytes] = {}
        self._batches: dict[str, JSONObject] = {}

    def answer(
        self, method: str, path: str, body: JSONObject, *, raw: bytes, content_type: str, complete: Complete
    ) -> JSONObject | bytes | None:
        """What is said to a call; bytes for a file's content, None for what is not there."""
        match [method, *path.strip("/").split("/")]:
            case ["POST", "files"]:
                return self._keep(_file_of(content_type, raw), str(body.get("purpose")))
            case ["GET", "files"]:
                return _listed(self._files)
            case ["GET", "files", name]:
                return self._files.get(name)
            case ["DELETE", "files", name] if name in self._files:
                del self._files[name]
                return {"id": name, "object": "file", "deleted": True}
            case ["GET", "files", name, "content"]:
                return self._contents.get(name)
            case ["POST", "batches"]:
                return self._begin(body)
            case ["GET", "batches"]:
                return _listed(self._batches)
            case ["POST", "batches", name, "cancel"] if name in self._batches:
                self._batches[name] |= {"status": "cancelled"}
                return self._batches[name]
            case ["GET", "batches", name] if name in self._batches:
                return self._finish(self._batches[name], complete)
        return None

    def _keep(self, content: bytes, purpose: str) -> JSONObject:
        name = f"file-fake{next(self._numbers)}"
        self._contents[name] = content
        self._files[name] = {
            "id": name, "object": "file", "bytes": len(content), "created_at": CREATED, "filename": "fake.jsonl",
            "purpose": purpose, "status": "processed",
        }  # fmt: skip
        return self._files[name]

    def _begin(self, body: JSONObject) -> JSONObject | None:
        if body.get("input_file_id") not in self._files:
            return None
        name = f"batch_fake{next(self._numbers)}"
        self._batches[name] = {
            "id": name, "object": "batch", "endpoint": body.get("endpoint"), "input_file_id": body["input_file_id"],
            "completion_window": "24h", "status": "validating", "created_at": CREATED, "output_file_id": None,
        }  # fmt: skip
        return self._batches[name]

    def _finish(self, batch: JSONObject, complete: Complete) -> JSONObject:
        if batch["status"] == "validating":
            lines = [json.loads(line) for line in self._contents[batch["input_file_id"]].splitlines() if line.strip()]
            results = [
                {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "error": None,
                 "response": {"status_code": 200, "request_id": f"req_{number}", "body": complete(line["body"])}}
                for number, line in enumerate(lines)
            ]  # fmt: skip
            content = b"".join(json.dumps(result).encode() + b"\n" for result in results)
            batch |= {"status": "completed", "output_file_id": self._keep(content, "batch_output")["id"]}
        return batch


def _listed(objects: dict[str, JSONObject]) -> JSONObject:
    return {"object": "list", "data": list(objects.values()), "has_more": False}


def _file_of(content_type: str, raw: bytes) -> bytes:
    head = b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        if part.get_filename() is not None and isinstance(content, bytes):
            return content
    return b""
