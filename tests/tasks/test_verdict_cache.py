import json
from multiprocessing import get_context
from pathlib import Path

from trb_lab.tasks.verdict_cache import VerdictCache


def test_what_one_process_adds_another_reads(tmp_path: Path) -> None:
    writer, reader = VerdictCache(tmp_path / "v.jsonl"), VerdictCache(tmp_path / "v.jsonl")
    writer.add({("1", "1"): True, ("1", "\\frac{é}{2}"): False})
    assert reader.get(("1", "1")) is None
    reader.refresh()
    assert reader.get(("1", "1")) is True
    assert reader.get(("1", "\\frac{é}{2}")) is False
    writer.add({("2", "2"): True})
    reader.refresh()
    assert len(reader) == 3


def test_torn_and_foreign_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_bytes(
        b'[1]\n{"gold": "1"}\n{"gold": 1, "answer": "1", "correct": true}\n\xff\xfe\n{"gold": "1", "ans'
    )
    cache = VerdictCache(path)
    cache.refresh()
    assert len(cache) == 0
    cache.add({("3", "3"): True})  # starts on a line of its own, after the torn one
    other = VerdictCache(path)
    other.refresh()
    assert other.get(("3", "3")) is True


def test_a_line_still_being_written_is_read_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    line = json.dumps({"gold": "1", "answer": "2", "correct": False}).encode()
    path.write_bytes(line[:20])
    cache = VerdictCache(path)
    cache.refresh()
    path.write_bytes(line + b"\n")
    cache.refresh()
    assert cache.get(("1", "2")) is False


def test_a_folder_that_cannot_be_written_costs_nothing_but_sharing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = VerdictCache(tmp_path / "file" / "v.jsonl")
    cache.refresh()
    cache.add({("1", "1"): True})
    assert cache.get(("1", "1")) is True


def _write(path: Path, first: int) -> None:
    for number in range(first, first + 200):
        VerdictCache(path).add({(str(number), "x" * (number % 500)): True})


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    writers = [get_context("fork").Process(target=_write, args=(path, first)) for first in (0, 200, 400)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    cache = VerdictCache(path)
    cache.refresh()
    assert len(cache) == 600
