import pytest

from trb_lab.errors import MissingExtra, UsageError
from trb_lab.spec.dataset import ReasoningGymDataset
from trb_lab.tasks import gym
from trb_lab.tasks.answers import extract_boxed
from trb_lab.tasks.datasets import dataset_version, load_problems


def test_closing_line_of_gsm8k_becomes_a_box() -> None:
    steps = "35 × 3 = 105\n\nSo 288 in total.\n#### 288"
    assert gym.boxed_solution(steps, "288") == "35 × 3 = 105\n\nSo 288 in total.\n\\boxed{288}"
    assert gym.boxed_solution("no closing line", "1") == "no closing line\n\\boxed{1}"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym.factory", None)
    with pytest.raises(MissingExtra, match=r"trb-lab\[gym\]"):
        load_problems(ReasoningGymDataset(task="gsm_symbolic"))


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")

    def test_gsm_symbolic_has_worked_steps(self) -> None:
        problems = load_problems(ReasoningGymDataset(task="gsm_symbolic", num_examples=20, seed=1))
        assert len({p.id for p in problems}) == 20
        for problem in problems:
            assert problem.prompt.endswith(gym.BOX_INSTRUCTION)
            assert problem.solution is not None
            assert extract_boxed(problem.solution) == problem.answer
            assert "####" not in problem.solution
        assert problems[:3] == load_problems(ReasoningGymDataset(task="gsm_symbolic", num_examples=3, seed=1))

    def test_settings_reach_the_generator(self) -> None:
        params = {"min_terms": 2, "max_terms": 2}
        (problem,) = load_problems(ReasoningGymDataset(task="chain_sum", num_examples=1, params=params))
        assert problem.solution is None
        assert problem.answer is not None

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"task": "gsm_symbolc"}, r"dataset\.task: .* Did you mean 'gsm_symbolic'\?"),
            ({"task": "time_intervals"}, "today's date"),
            ({"task": "chain_sum", "params": {"min_term": 2}}, r"no 'min_term'.* Did you mean 'min_terms'\?"),
            ({"task": "chain_sum", "params": {"min_terms": 9, "max_terms": 2}}, "max_terms must be >="),
        ],
    )
    def test_what_cannot_be_generated(self, spec: dict, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_problems(ReasoningGymDataset(**spec))

    def test_version_is_the_package_s(self) -> None:
        assert dataset_version(ReasoningGymDataset(task="gsm_symbolic")).startswith("reasoning-gym-0.")
