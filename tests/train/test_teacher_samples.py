"""The cache of teacher samples: shared by content, never torn, never somebody else's."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.experiments import small_spec
from trb_lab.models.load import load_pair
from trb_lab.tasks.grading import Grader
from trb_lab.train.data import TrainingData
from trb_lab.train.teacher_samples import TeacherSampler

ROLLOUT = {"prompts_per_step": 3, "samples_per_prompt": 1, "max_prompt_tokens": 64, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def pair():
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def draw(pair, update=0, samples=2, sampler=None, **changes):
    spec = small_spec(**{"rollout": ROLLOUT, **changes})
    with Grader() as grader:
        data = TrainingData(spec, pair, grader)
    sampler = sampler or TeacherSampler(spec, pair, samples, 0)
    return sampler, sampler.at(update, [data.teacher_ids[i] for i in data.rows_at(update, samples)])


def files(cache):
    return sorted(cache.rglob("*.safetensors"))


def test_what_is_kept_is_what_was_made_and_is_not_made_again(pair, cache):
    _, made = draw(pair)
    sampler, kept = draw(pair)
    assert sampler.engine is None  # nothing was decoded
    assert torch.equal(made.tokens_BT, kept.tokens_BT) and torch.equal(made.lengths_B, kept.lengths_B)
    assert torch.equal(made.finished_B, kept.finished_B)
    assert kept.cost == made.cost and made.cost.teacher_tokens > int(made.lengths_B.sum())
    assert len(files(cache)) == 1


def test_other_arms_and_longer_phases_share(pair, cache):
    for warmup in ({"kind": "sft", "updates": 2}, {"kind": "sft", "updates": 6, "lr": 0.1}):
        for update in (0, 1):
            draw(pair, update, warmup=warmup, optim={"lr": 0.5}, eval={"sets": []})
    assert len(files(cache)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"rollout": {**ROLLOUT, "max_new_tokens": 25}},
        {"rollout": {**ROLLOUT, "prompts_per_step": 4}},
        {"rollout": {**ROLLOUT, "batch_invariant": True}},
        {"dataset": {"kind": "arith", "num_examples": 150}},
        {"samples": 3},
        {"update": 1},
        {"teacher": "arith-student"},
    ],
)
def test_what_decides_the_tokens_makes_another_file(pair, cache, changes):
    draw(pair)
    sampler, _ = draw(pair, **changes)
    assert sampler.engine is not None
    assert len(files(cache)) == 2


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign", "changed"])
def test_a_torn_or_foreign_file_is_made_again(pair, cache, damage):
    _, made = draw(pair)
    path = files(cache)[0]
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        save_file({"tokens": torch.zeros(6, 3, dtype=torch.int32)}, path)
    else:
        data = bytearray(path.read_bytes())
        data[-50] ^= 1
        path.write_bytes(bytes(data))
    sampler, again = draw(pair)
    assert sampler.engine is not None
    assert again.digest == made.digest
    assert torch.equal(load_file(path)["lengths"].long(), made.lengths_B)
    assert list(path.parent.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_costs_time_only(pair, cache):
    cache.write_text("a file where the folder should be")
    _, one = draw(pair)
    _, two = draw(pair)
    assert one.digest == two.digest


def test_the_first_writer_wins(pair, cache, monkeypatch):
    """Another process stores its samples while ours are being made: both go on with the same."""
    sampler, theirs = draw(pair)
    path = files(cache)[0]
    stored = path.read_bytes()
    path.unlink()
    real = TeacherSampler._sample

    def slow(self, update, prompts):
        made = real(self, update, prompts)
        path.write_bytes(stored)
        return made

    monkeypatch.setattr(TeacherSampler, "_sample", slow)
    _, ours = draw(pair, sampler=sampler)
    assert ours.cost == theirs.cost  # theirs was read, ours dropped
    assert list(path.parent.iterdir()) == [path]


PROCESS = """
import torch
from tests.train.test_teacher_samples import draw
from tests.train.experiments import small_spec
from trb_lab.models.load import load_pair
torch.set_num_threads(1)
spec = small_spec()
pair = load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)
print(*(draw(pair, update)[1].digest for update in range(3)))
"""


@pytest.mark.slow
def test_two_processes_at_once(cache):
    workers = [
        subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0]
    assert answers[0] == answers[1] and answers[0].strip()
    assert len(files(cache)) == 3
    assert not list(cache.rglob("*.tmp"))
