"""Small real experiments on the bundled pair, for tests."""

from pathlib import Path
from typing import Any

from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.trial import prepare


def small_spec(**changes: Any) -> ExperimentSpec:
    """Six steps of eight rollouts; evaluation every third step."""
    base: dict[str, Any] = {
        "name": "small",
        "student": "arith-student",
        "teacher": "arith-teacher",
        "dataset": {"kind": "arith", "num_examples": 200},
        "warmup": {"kind": "trb", "kl_budget": 0.1, "steps": 4},
        "optim": {"lr": 1e-3, "lr_warmup_steps": 2},
        "rollout": {
            "prompts_per_step": 8,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 64,
            "max_new_tokens": 48,
        },
        "eval": {
            "sets": [
                {
                    "name": "easy",
                    "dataset": {"kind": "arith", "split": "test", "level": "easy", "num_examples": 12},
                }
            ],
            "samples": 1,
            "every": 3,
        },
        "checkpoint": {"every": 2},
        "resources": {"cpu_threads": 1, "device": "cpu"},
        "steps": 6,
    }
    return ExperimentSpec.model_validate({**base, **changes})


def small_run(folder: Path, **changes: Any) -> RunDir:
    """A prepared run directory."""
    return prepare(small_spec(**changes), Store(folder))
