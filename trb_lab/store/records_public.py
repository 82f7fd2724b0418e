"""What of a record is published: an archive says what ran and how, and nothing of the machine's folders and people."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

PRIVATE = {
    "provenance.json": ("command", "environment", "pid", "host.name", "host.system"),
}
"""File -> dotted keys that are left out."""
PATHS = {"plan.json": ("spec.base",), "continuation.json": ("folder",)}
"""File -> dotted keys of which only the last part of the path is kept."""


def published(name: str, content: bytes) -> bytes:
    """The content that an archive holds for a file of the store; files that say nothing private are as they were."""
    kind = PurePosixPath(name).name
    if kind == "attempts.jsonl":
        return _attempts(content)
    if kind not in PRIVATE and kind not in PATHS:
        return content
    try:
        value = json.loads(content)
    except ValueError:  # torn: as much as there is, which no report reads
        return content
    for key in PRIVATE.get(kind, ()):
        block, last = _holder(value, key)
        block.pop(last, None)
    for key in PATHS.get(kind, ()):
        block, last = _holder(value, key)
        if isinstance(block.get(last), str):
            block[last] = PurePosixPath(block[last]).name
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _attempts(content: bytes) -> bytes:
    """attempts.jsonl without host and process of attempts that ended: where one died they are what is said of it."""
    lines = content.splitlines(keepends=True)
    events = [_event(line) for line in lines]
    ended = {e.get("attempt") for e in events if e.get("event") == "end"}
    return b"".join(
        (json.dumps({k: v for k, v in event.items() if k not in ("host", "pid", "job")}) + "\n").encode()
        if event.get("attempt") in ended
        else line
        for line, event in zip(lines, events, strict=True)
    )


def _event(line: bytes) -> dict[str, Any]:
    """One line; empty where it is torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _holder(value: Any, key: str) -> tuple[dict[str, Any], str]:
    """The mapping that a dotted key lies in (an empty one where it is not there), and the key's last part."""
    *above, last = key.split(".")
    for part in above:
        value = value.get(part) if isinstance(value, dict) else None
    return (value if isinstance(value, dict) else {}), last
