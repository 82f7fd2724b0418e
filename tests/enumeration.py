"""A tiny pair enumerated: what every arm draws from at every prefix, by its definition and in float64.

Shape suffixes: P prefixes, V vocabulary, B rows, T response positions.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from tests.tiny import STUDENT_EOS, TEACHER_EOS
from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.policy.behaviors import StepBehavior, Target, trust_region_rollouts
from trb_lab.policy.coupling import kl_divergence
from trb_lab.rollout.blocks import BlockChooser, CostTable
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest, Rollouts
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.warmup import (
    FixedEpsilonWarmup,
    MixtureWarmup,
    OpdWarmup,
    SakiWarmup,
    SftWarmup,
    SkdWarmup,
    TeacherForcedWarmup,
    TemperatureWarmup,
    TrbWarmup,
    VetoWarmup,
    Warmup,
)

PROMPTS = (([3, 4], [5, 2, 4]), ([5], [3]), ([2, 3, 4, 5, 2], [2, 2]))
"""(student, teacher) prompts of unequal length; rows of a request take them in turn."""
END = -1
SIZE = 6
"""Shared vocabulary of the pair that the arms' top-Ks are made for."""
TAU, TEACHER_TAU = 0.7, 0.6
BANKED = 0.5
"""Budget of the arm with a bank: on this pair the teacher lies within it at some prefixes and beyond it at others."""


# ---- arms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A behaviour policy as the engine gets it, and its definition."""

    behavior: Callable[[int], StepBehavior]
    """rows -> behaviour policy"""
    mu: Callable[[Tensor, Tensor, Any], Tensor]
    """(p_PV, q_PV, the row's annealed value, or one a prefix [P]) -> mu_PV, float64"""
    redraw_rate: Callable[[Tensor, Tensor], Tensor] | None = None
    """(p_PV, q_PV) -> probability of a redraw [P]; None is TV(p, mu)."""
    is_banked: bool = False
    """The value of a prefix is what its tokens have left of one value each, and one more."""


def _of(warmup: Warmup, step: int = 0) -> Callable[[int], StepBehavior]:
    return lambda rows: behavior_at(warmup, step, rows, seed=1)


def behavior_at(warmup: Warmup, step: int, rows: int, seed: int, steps: int = 100) -> StepBehavior:
    """The behaviour policy of an arm."""
    return arm_at(warmup, ArmContext(step, rows, seed, steps)).behavior


def blend_of(p_PV: Tensor, q_PV: Tensor, beta_P: Tensor) -> tuple[Tensor, Tensor]:
    """mu_beta on the common support and KL(mu_beta || p), by the formula."""
    common_PV = (p_PV > 0) & (q_PV > 0)
    log_p_PV, log_q_PV = p_PV.clamp_min(1e-300).log(), q_PV.clamp_min(1e-300).log()
    tilted_PV = (1 - beta_P[:, None]) * log_p_PV + beta_P[:, None] * log_q_PV
    log_mu_PV = tilted_PV.masked_fill(~common_PV, -torch.inf).log_softmax(-1)
    gap_PV = torch.where(common_PV, log_mu_PV - log_p_PV, 0.0)
    return log_mu_PV.exp(), (log_mu_PV.exp() * gap_PV).sum(-1)


def _trust_region(p_PV: Tensor, q_PV: Tensor, eps: float | Tensor) -> Tensor:
    """The largest feasible beta by bisection."""
    low_P, high_P = torch.zeros(len(p_PV), dtype=torch.float64), torch.ones(len(p_PV), dtype=torch.float64)
    low_P = torch.where(blend_of(p_PV, q_PV, high_P)[1] <= eps, 1.0, low_P)
    for _ in range(60):
        middle_P = (low_P + high_P) / 2
        fits_P = blend_of(p_PV, q_PV, middle_P)[1] <= eps
        low_P, high_P = torch.where(fits_P, middle_P, low_P), torch.where(fits_P, high_P, middle_P)
    return blend_of(p_PV, q_PV, low_P)[0]


def kl_of(mu_PV: Tensor, p_PV: Tensor) -> Tensor:
    """KL(mu || p) [P]."""
    return torch.special.xlogy(mu_PV, torch.where(mu_PV > 0, mu_PV / p_PV, 1.0)).sum(-1)


def banked_values(arm: Arm, p_BTV: Tensor, q_BTV: Tensor, value_B: Tensor) -> Tensor:
    """What each position of some rows may spend [B, T]: a value a token so far, less the KL spent before it."""
    bank_B, allowed = torch.zeros_like(value_B), []
    for t in range(p_BTV.shape[1]):
        allowed.append(bank_B + value_B)
        mu_BV = arm.mu(p_BTV[:, t], q_BTV[:, t], allowed[-1])
        bank_B = (allowed[-1] - kl_of(mu_BV, p_BTV[:, t])).clamp_min(0.0)
    return torch.stack(allowed, dim=1)


def mu_at(arm: Arm, p_BTV: Tensor, q_BTV: Tensor, mask_BT: Tensor, value_B: Tensor) -> Tensor:
    """mu [N, V] at the positions of some rows."""
    p_NV, q_NV = p_BTV[mask_BT], q_BTV[mask_BT]
    if arm.is_banked:
        return arm.mu(p_NV, q_NV, banked_values(arm, p_BTV, q_BTV, value_B)[mask_BT])
    values_N = value_B[:, None].expand(mask_BT.shape)[mask_BT]
    mu_NV = torch.zeros_like(p_NV)
    for value in values_N.unique().tolist():
        of = values_N == value
        mu_NV[of] = arm.mu(p_NV[of], q_NV[of], value)
    return mu_NV


def _driven(p_PV: Tensor, q_PV: Tensor, value: float) -> Tensor:
    return q_PV if value > 0 else p_PV


def _mixed(p_PV: Tensor, q_PV: Tensor, value: float) -> Tensor:
    return (1 - value) * p_PV + value * q_PV


def _powered(probabilities_PV: Tensor, tau: float) -> Tensor:
    powered_PV = probabilities_PV ** (1 / tau)
    return powered_PV / powered_PV.sum(-1, keepdim=True)


def _student(p_PV: Tensor, q_PV: Tensor, value: float) -> Tensor:
    return p_PV


def _third_party_target(log_p_NV: Tensor, log_q_NV: Tensor, value_N: Tensor) -> Target:
    """A behaviour policy that the project does not have: p^(1/tau) by the maximal coupling, the teacher looking on."""
    log_mu_NV = (log_p_NV / TAU).log_softmax(-1)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


def _outside(q_PV: Tensor, top_k: int) -> Tensor:
    """1 where a token is not among the teacher's top-K."""
    rank_PV = (q_PV[..., None, :] > q_PV[..., :, None]).sum(-1)
    return (rank_PV >= top_k).double()


def _skd_arm(top_k: int, variant: str) -> Arm:
    """Enumerates draft, tested token and replacement, one after the other."""

    def mu(p_PV: Tensor, q_PV: Tensor, value: float) -> Tensor:
        outside_PV, cold_PV = _outside(q_PV, top_k), _powered(q_PV, TEACHER_TAU)
        mu_PV = torch.zeros_like(p_PV)
        for draft in range(p_PV.shape[-1]):
            for tested in [draft] if variant == "published" else range(p_PV.shape[-1]):
                chance_P = p_PV[:, draft] * (1.0 if variant == "published" else p_PV[:, tested])
                replaced_P = chance_P * outside_PV[:, tested]
                mu_PV[:, draft] += chance_P - replaced_P
                mu_PV += replaced_P[:, None] * cold_PV
        return mu_PV

    spec = SkdWarmup(top_k=top_k, teacher_temperature=TEACHER_TAU, variant=variant)
    return Arm(_of(spec), mu, lambda p, q: (p * _outside(q, top_k)).sum(-1))


def third_party(target: Callable[[Tensor, Tensor, Tensor], Target], rows: int) -> StepBehavior:
    return StepBehavior(1.0, target, torch.ones(rows, dtype=torch.float64), expected_redraws=0.5)


def _budget_of(eps: float, rows: int) -> StepBehavior:
    return trust_region_rollouts(torch.full((rows,), eps), eps)


BUDGETS = (0.0, 0.001, 0.01, 0.05, 0.5, float("inf"))
ARMS = {
    "opd": Arm(_of(OpdWarmup()), _student),
    **{f"trb_{eps}": Arm(partial(_budget_of, eps), _trust_region) for eps in BUDGETS},
    "fixed_budget": Arm(_of(TrbWarmup(kl_budget=0.05, anneal="constant", steps=10), 9), _trust_region),
    "fixed_epsilon": Arm(_of(FixedEpsilonWarmup(kl_budget=0.05), 99), _trust_region),
    "trb_banked": Arm(
        _of(TrbWarmup(kl_budget=BANKED, kl_budget_mode="sequence")), _trust_region, is_banked=True
    ),
    "mixture": Arm(_of(MixtureWarmup(weight=0.5, steps=10)), _mixed),
    "mixture_sequence": Arm(_of(MixtureWarmup(weight=0.5, level="sequence", steps=10)), _driven),
    "teacher_forced": Arm(_of(TeacherForcedWarmup(share=1.0, steps=10)), _driven),
    "teacher_forced_half": Arm(_of(TeacherForcedWarmup(share=0.5, steps=10)), _driven),
    "temperature": Arm(_of(TemperatureWarmup(temperature=TAU)), lambda p, q, value: _powered(p, TAU)),
    "temperature_later": Arm(
        _of(TemperatureWarmup(temperature=TAU, steps=10), 4), lambda p, q, value: _powered(p, 0.82)
    ),
    "sft": Arm(_of(SftWarmup()), _student),
    **{
        f"skd_{k}_{variant}": _skd_arm(k, variant)
        for variant in ("published", "released_code")
        for k in (1, 2, SIZE)
    },
    "veto": Arm(_of(VetoWarmup(b_start=0.8)), _student),
    "saki": Arm(
        _of(SakiWarmup(kl_budget=0.05, steps=50), 25), lambda p, q, value: _trust_region(p, q, 0.025)
    ),
    "third_party": Arm(partial(third_party, _third_party_target), lambda p, q, value: _powered(p, TAU)),
}
STUDENT_ALONE = ("opd", "sft", "veto", "temperature", "temperature_later")
"""Arms without the teacher: nothing is redrawn."""


# ---- requests --------------------------------------------------------------------------------------------------

COSTS = CostTable("made up", 1, 1, 1.0, dict.fromkeys(range(1, 17), 5.0))
"""A verification costs as much as five drafts: the best block falls from 16 as redraws become likelier."""


def ragged_request(
    rows: int, width: int, stream: str, step: int = 0, block: int | None = None
) -> RolloutRequest:
    """Rows that take PROMPTS in turn."""
    kinds = [PROMPTS[row % len(PROMPTS)] for row in range(rows)]
    draws = Draws.keyed(5, stream, step, range(rows), width)
    return RolloutRequest([list(s) for s, _ in kinds], [list(t) for _, t in kinds], draws, block)


@dataclass(frozen=True)
class Drawn:
    """A step's rollouts and how they were asked for."""

    rollouts: Rollouts
    behavior: StepBehavior

    def rows(self) -> Iterator[tuple[int, float, tuple[int, ...]]]:
        """(prompt pair, annealed value, response) of each row"""
        values, responses = self.behavior.row_values.tolist(), responses_of(self.rollouts)
        for row, (value, response) in enumerate(zip(values, responses, strict=True)):
            yield row % len(PROMPTS), value, response


def draw_steps(
    pair: Pair, arm: Arm, rows: int, width: int, block: int | None, stream: str, max_rows: int, steps: int = 2
) -> list[Drawn]:
    """A few steps of rollouts. Block None adapts: it starts from a redraw ratio of 3 and learns by the first step."""
    engine, behavior = TorchEngine(pair, max_rows=max_rows), arm.behavior(rows)
    chooser = BlockChooser(None, COSTS, redraw_ratio=3.0)
    drawn = []
    for step in range(steps):
        asked = ragged_request(rows, width, stream, step, block or chooser.at(behavior))
        rollouts = engine.rollout(asked, behavior, Keep())
        chooser.observe(behavior, rollouts)
        drawn.append(Drawn(rollouts, behavior))
    return drawn


def responses_of(rollouts: Rollouts) -> list[tuple[int, ...]]:
    """Tokens of each row, the stop token included."""
    rows = zip(rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True)
    return [tuple(row[:length]) for row, length in rows]


# ---- enumeration and fit ---------------------------------------------------------------------------------------


def exact_copy(model: LanguageModel) -> LanguageModel:
    """The model in float64; passes through it are plain transformers."""
    return copy.deepcopy(model).double()


@torch.no_grad()
def exact_probabilities(model: LanguageModel, ids: Tensor, size: int) -> Tensor:
    """Next-token probabilities [..., V] after each of the ids, the stop mass on the student's id, by definition."""
    raw = model.network(input_ids=ids).logits.double()[..., :size].softmax(-1)
    merged = raw.clone()
    merged[..., [STUDENT_EOS, TEACHER_EOS]] = 0.0
    merged[..., STUDENT_EOS] = raw[..., STUDENT_EOS] + raw[..., TEACHER_EOS]
    return merged


def fresh_probabilities(
    model: LanguageModel, prompts: list[list[int]], rollouts: Rollouts, size: int
) -> Tensor:
    """[B, T, V] at each response position, from one plain pass over right-padded rows."""
    responses = responses_of(rollouts)
    rows = [list(prompt) + list(response) for prompt, response in zip(prompts, responses, strict=True)]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    found = exact_probabilities(model, ids, size)
    out = torch.full((*rollouts.tokens_BT.shape, size), 1.0 / size, dtype=torch.float64)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        out[i, : len(response)] = found[i, len(prompt) - 1 : len(prompt) + len(response) - 1]
    return out


class Enumeration:
    """Every response of up to `depth` tokens after each of PROMPTS."""

    def __init__(self, pair: Pair, depth: int) -> None:
        self.depth, size = depth, pair.vocabulary.size
        live = [token for token in range(size) if token not in (STUDENT_EOS, TEACHER_EOS)]
        self.prefixes = [
            prefix for length in range(depth) for prefix in itertools.product(live, repeat=length)
        ]
        self.place = {prefix: i for i, prefix in enumerate(self.prefixes)}
        models = (exact_copy(pair.student), exact_copy(pair.teacher))
        self.p, self.q = (
            [self._after(model, prompts[which], size) for prompts in PROMPTS]
            for which, model in enumerate(models)
        )

    def _after(self, model: LanguageModel, prompt: list[int], size: int) -> Tensor:
        """[P, V]; all prefixes of a length in one pass."""
        parts = []
        for _, group in itertools.groupby(self.prefixes, key=len):
            ids = torch.tensor([prompt + list(prefix) for prefix in group])
            parts.append(exact_probabilities(model, ids, size)[:, -1])
        return torch.cat(parts)

    def mu(self, arm: Arm, kind: int, value: float) -> Tensor:
        p_PV, q_PV = self.p[kind], self.q[kind]
        if not arm.is_banked:
            return arm.mu(p_PV, q_PV, value)
        return arm.mu(p_PV, q_PV, self._allowed(arm, kind, value))

    def _allowed(self, arm: Arm, kind: int, value: float) -> Tensor:
        """What a token after each prefix may spend [P]: its own value, and what the prefix has left over."""
        left, parts = {}, []
        for _, group in itertools.groupby(self.prefixes, key=len):
            prefixes = list(group)
            p_PV, q_PV = (
                side[kind][[self.place[prefix] for prefix in prefixes]] for side in (self.p, self.q)
            )
            saved = [left[prefix[:-1]] if prefix else 0.0 for prefix in prefixes]
            parts.append(torch.tensor(saved, dtype=torch.float64) + value)
            spent_P = kl_of(arm.mu(p_PV, q_PV, parts[-1]), p_PV)
            left.update(zip(prefixes, (parts[-1] - spent_P).clamp_min(0.0).tolist(), strict=True))
        return torch.cat(parts)

    def cells(self, arm: Arm, kind: int, value: float) -> dict[tuple[int, ...], float]:
        """Probability of each response; it ends with the stop token or at `depth`."""
        mu = self.mu(arm, kind, value).tolist()
        reach, cells = {(): 1.0}, {}
        for prefix in self.prefixes:
            for token, probability in enumerate(mu[self.place[prefix]]):
                if probability > 0 and prefix in reach:
                    response = (*prefix, token)
                    ended = token == STUDENT_EOS or len(response) == self.depth
                    (cells if ended else reach)[response] = reach[prefix] * probability
        return cells

    def p_values(self, arm: Arm, drawn: list[Drawn]) -> list[float]:
        """Chi-square tests of the whole responses, and of the token at each position (or that there is none)."""
        found: dict[tuple[int, float], Counter] = {}
        for step in drawn:
            for kind, value, response in step.rows():
                found.setdefault((kind, value), Counter())[response] += 1
        strata = [(counts, self.cells(arm, *stratum)) for stratum, counts in found.items()]
        views = [lambda response: response, *(partial(_token_at, t) for t in range(self.depth))]
        return [_fit(strata, view) for view in views]


def _token_at(position: int, response: tuple[int, ...]) -> int:
    return response[position] if position < len(response) else END


def _fit(strata: list[tuple[Counter, dict]], view: Callable) -> float:
    """Pearson's test, each stratum's total given; cells of expectation under 5 are pooled. 0 where p = 0 was drawn."""
    statistic, freedom = 0.0, 0
    for counts, cells in strata:
        total = sum(counts.values())
        expected, observed = Counter(), Counter()
        for response, probability in cells.items():
            expected[view(response)] += total * probability
        for response, count in counts.items():
            observed[view(response)] += count
        if not set(observed) <= set(expected):
            return 0.0
        pairs = sorted((mean, observed[cell]) for cell, mean in expected.items())
        while len(pairs) > 1 and pairs[0][0] < 5:
            (mean, count), (next_mean, next_count) = pairs[:2]
            pairs = sorted([(mean + next_mean, count + next_count), *pairs[2:]])
        statistic += sum((count - mean) ** 2 / mean for mean, count in pairs)
        freedom += len(pairs) - 1
    return float(chi2.sf(statistic, freedom))
