"""What the rollout benchmark does before its clock runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trb_lab.bench import rollout_random
from trb_lab.bench.random_pair import random_pair
from trb_lab.bench.setting import random_setting
from trb_lab.rollout.engine import RolloutRequest


def test_passes_are_captured_for_every_batch_size_up_to_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = random_setting(random_pair("tiny-qwen3", torch.device("cpu"), torch.float32), 3, 4, 16)
    engine, sizes = setting.engine, []
    rollout = engine.rollout

    def counted(request: RolloutRequest, *rest: Any) -> Any:
        sizes.append(len(request.student_prompts))
        return rollout(request, *rest)

    monkeypatch.setattr(engine, "rollout", counted)
    rollout_random._capture(setting, setting.trb(0.01), 2)
    assert sizes == [1, 2, 3]
