"""Small data sets in the layout of the hub's: same folders, file names, columns and README as the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]

GSM8K: Rows = [
    {
        "question": "Natalia sold 48 clips in April and half as many in May. How many altogether?",
        "answer": "In May she sold 48/2 = <<48/2=24>>24.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72",
    },
    {"question": "A house costs 80,000 and gains 1%. What is it worth?", "answer": "Add 800.\n#### 80,800"},
]
MATH500: Rows = [
    {
        "problem": "Convert the point $(0,3)$ to polar coordinates.",
        "solution": "It is $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}$.",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    },
    {
        "problem": "What does Betty pay?",
        "solution": "She pays $\\boxed{\\$36}$.",
        "answer": "\\$36",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
]
OLYMPIADBENCH: Rows = [
    {
        "id": 1606 + i,
        "question": f"Find the answer to question {i}.",
        "solution": ["..."],
        "final_answer": answer,
        "context": None,
        "modality": "Text-only",
        "is_multiple_answer": "," in answer[0],
        "unit": None,
        "answer_type": "Numerical",
        "question_type": "Open-ended",
        "language": "English",
    }
    for i, answer in enumerate([["2"], ["$\\frac{1}{2 n+2}$"], ["$-1$", "$7$"], ["$2n-1$ moves in all"]])
]
AMC: Rows = [
    {"id": 0, "answer": "27.0", "url": "https://", "question": "Cities A and B are $45$ miles apart."}
]
AIME24: Rows = [
    {
        "id": 60,
        "problem": "Every morning Aya goes for a $9$-kilometer-long walk.",
        "solution": "...",
        "answer": "033",
        "url": "https://",
        "year": "2024",
    }
]
AIME25: Rows = [{"problem": "Find the sum of all integer bases $b>9$.", "answer": "70", "id": "0"}]


def _conversation(question: str, response: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": response}]


OPENTHOUGHTS3: Rows = [
    {
        "difficulty": None if domain == "math" else 7,
        "source": source,
        "domain": domain,
        "conversations": _conversation(
            f"{domain} question {i}", f"<think>{'long ' * 50}{j}</think> answer {j}"
        ),
    }
    for domain, source in (
        ("code", "nvidia/OpenCodeReasoning"),
        ("math", "ai2-adapt-dev/openmath-2-math"),
        ("science", "organic-chemistry-questions"),
    )
    for i in range(5)
    for j in range(16)
]

_README = "---\nconfigs:\n{configs}---\n\n# A data set\n"


def _readme(config: str, **files: str) -> str:
    lines = "".join(f"  - split: {split}\n    path: {path}\n" for split, path in files.items())
    return _README.format(configs=f"- config_name: {config}\n  data_files:\n{lines}")


def _parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _jsonl(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_gsm8k(folder: Path) -> None:
    for split in ("train", "test"):
        rows = GSM8K if split == "test" else [{"question": "Of the other split.", "answer": "#### 1"}]
        _parquet(folder / "main" / f"{split}-00000-of-00001.parquet", rows)
        _parquet(folder / "socratic" / f"{split}-00000-of-00001.parquet", rows[:1])
    readme = _readme("main", train="main/train-*", test="main/test-*")
    socratic = "- config_name: socratic\n  data_files:\n  - split: test\n    path: socratic/test-*\n---\n\n"
    (folder / "README.md").write_text(readme.replace("---\n\n", socratic))


def write_math500(folder: Path) -> None:
    _jsonl(folder / "test.jsonl", MATH500)
    (folder / "README.md").write_text("---\ntask_categories:\n- text-generation\n---\n")


def write_olympiadbench(folder: Path) -> None:
    name = "OE_TO_maths_en_COMP"
    file = f"OlympiadBench/{name}/{name}.parquet"
    _parquet(folder / file, OLYMPIADBENCH)
    (folder / "README.md").write_text(_readme(name, train=file))


def write_amc(folder: Path) -> None:
    _parquet(folder / "test-00000-of-00001.parquet", AMC)


def write_aime24(folder: Path) -> None:
    _parquet(folder / "data" / "train-00000-of-00001.parquet", AIME24)
    (folder / "README.md").write_text(_readme("default", train="data/train-*"))


def write_aime25(folder: Path) -> None:
    _jsonl(folder / "test.jsonl", AIME25)


def write_openthoughts3(folder: Path) -> None:
    half = len(OPENTHOUGHTS3) // 2
    for i, rows in enumerate((OPENTHOUGHTS3[:half], OPENTHOUGHTS3[half:])):
        _parquet(folder / "data" / f"train-0000{i}-of-00002.parquet", rows)
    (folder / "README.md").write_text(_readme("default", train="data/train-*"))


WRITERS = {
    "openai/gsm8k": write_gsm8k,
    "HuggingFaceH4/MATH-500": write_math500,
    "Hothan/OlympiadBench": write_olympiadbench,
    "math-ai/amc23": write_amc,
    "HuggingFaceH4/aime_2024": write_aime24,
    "math-ai/aime25": write_aime25,
    "open-thoughts/OpenThoughts3-1.2M": write_openthoughts3,
}


def write_snapshot(hub_cache: Path, hub_id: str, commit: str, *, default: bool = True) -> Path:
    """The data set as a snapshot of the hub's cache, on the default branch where `default`."""
    folder = hub_cache / f"datasets--{hub_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    WRITERS[hub_id](snapshot)
    if default:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    return snapshot
