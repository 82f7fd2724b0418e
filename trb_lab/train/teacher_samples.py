"""Samples of the teacher for supervised updates: made once, kept by content, shared by all runs that need the same.

One file an update under `teacher_samples/<settings>/` of the cache folder ($TRB_LAB_CACHE, else ~/.cache/trb_lab). Its
name hashes everything that decides the tokens, so that n = 15 and n = 50 updates share the first 15, and so do arms
and settings. Whoever is first keeps their samples; a file that does not hold what its name says is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trb_lab.cache import cache_dir
from trb_lab.models.catalog import resolve
from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import student_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec import ExperimentSpec
from trb_lab.store.contents import hash_model

from .ledger import Cost, Ledger

FORMAT = 1


@dataclass(frozen=True)
class TeacherSamples:
    """One update's samples. B rows, T positions."""

    tokens_BT: Tensor
    """int64, the stop token included, 0 behind the end."""
    lengths_B: Tensor
    finished_B: Tensor
    """bool: ended by the stop event; False means cut at the limit."""
    cost: Cost
    """Of making them, whoever made them."""

    @property
    def digest(self) -> str:
        """sha256 of what the samples are."""
        total = hashlib.sha256()
        for part in (self.lengths_B, self.tokens_BT, self.finished_B.to(torch.int64)):
            total.update(part.numpy().astype("<i8").tobytes())
        return total.hexdigest()


class TeacherSampler:
    """Samples at temperature 1 from the teacher, by the engine with the teacher in the student's place.

    Draws are keyed by (seed, "sft", update, row): the samples depend on no other update.
    """

    def __init__(self, spec: ExperimentSpec, pair: Pair, samples_per_prompt: int, gpus: int) -> None:
        self.spec, self.samples_per_prompt, self.gpus = spec, samples_per_prompt, gpus
        self.pair = Pair(pair.teacher, pair.teacher, pair.vocabulary)
        self.engine: TorchEngine | None = None
        self.settings = self._settings()
        self.folder = cache_dir() / "teacher_samples" / _digest(self.settings)[:16]

    def _settings(self) -> dict[str, object]:
        """What decides the tokens beside the prompts and the update."""
        teacher, vocabulary = self.pair.teacher, self.pair.vocabulary
        cuda = teacher.device.type == "cuda"
        # Present only where asked for, so that files made before keep their names.
        rows_alone = {"batch_invariant": True} if self.spec.rollout.batch_invariant else {}
        return {
            **rows_alone,
            "format": FORMAT,
            "teacher": hash_model(resolve(self.spec.teacher).path),
            "vocabulary": [vocabulary.size, vocabulary.stop_id, vocabulary.stop_ids, vocabulary.masked_ids],
            "seed": self.spec.seed,
            "samples_per_prompt": self.samples_per_prompt,
            "max_new_tokens": self.spec.rollout.max_new_tokens,
            "dtype": str(teacher.dtype),
            "device": torch.cuda.get_device_name(teacher.device) if cuda else "cpu",
        }

    def at(self, update: int, prompts: list[list[int]]) -> TeacherSamples:
        """The samples of an update, from the cache or new; `prompts` are teacher prompts, one a row."""
        identity = _digest({**self.settings, "update": update, "prompts": prompts})
        path = self.folder / f"update_{update:06d}-{identity[:12]}.safetensors"
        kept = _read(path, identity, len(prompts))
        if kept is not None:
            return kept
        made = self._sample(update, prompts)
        return _keep(path, identity, made)

    def _sample(self, update: int, prompts: list[list[int]]) -> TeacherSamples:
        width = self.spec.rollout.max_new_tokens
        if self.engine is None:
            self.engine = TorchEngine.of(self.pair, self.spec.resources, self.spec.rollout)
        counters = self.engine.tokens
        ledger = Ledger(lambda: {"student": 0, "teacher": counters["student"]}, self.gpus)
        with ledger("sft_samples"):
            draws = Draws.keyed(self.spec.seed, "sft", update, range(len(prompts)), width, coupled=False)
            request = RolloutRequest(prompts, None, draws)
            made = self.engine.rollout(request, student_rollouts(len(prompts)), Keep())
        self.engine.make_room()
        return TeacherSamples(made.tokens_BT, made.lengths_B, made.finished_B, ledger.phases["sft_samples"])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path, identity: str, rows: int) -> TeacherSamples | None:
    """The samples in the file; None where there are none, or others, or a part of them."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            parts = {name: file.get_tensor(name) for name in ("tokens", "lengths", "finished")}
            samples = TeacherSamples(
                parts["tokens"].to(torch.int64),
                parts["lengths"].to(torch.int64),
                parts["finished"].to(torch.bool),
                Cost(**json.loads(about["cost"])),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    is_ours = about.get("identity") == identity and samples.lengths_B.shape == (rows,)
    return samples if is_ours and about.get("sha256") == samples.digest else None


def _keep(path: Path, identity: str, made: TeacherSamples) -> TeacherSamples:
    """Store the samples unless somebody was faster; what is stored then, so that a resume sees the same."""
    mine = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    tensors = {
        "tokens": made.tokens_BT.to(torch.int32),
        "lengths": made.lengths_B.to(torch.int32),
        "finished": made.finished_B.to(torch.uint8),
    }
    about = {"identity": identity, "sha256": made.digest, "cost": json.dumps(asdict(made.cost))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, mine, about)
        with open(mine, "rb+") as file:
            os.fsync(file.fileno())
        try:
            os.link(mine, path)
        except FileExistsError:
            kept = _read(path, identity, len(made.lengths_B))
            if kept is not None:
                return kept
            os.replace(mine, path)  # torn or foreign
        except OSError:
            os.replace(mine, path)  # a file system without links
    except (OSError, SafetensorError):
        return made  # a cache that cannot be written: a resume makes the same samples again
    finally:
        with contextlib.suppress(OSError):
            mine.unlink(missing_ok=True)
    return made
