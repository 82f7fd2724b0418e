"""The solver's bench: its cases, and the accuracy that it states."""

from __future__ import annotations

import pytest
import torch

from trb_lab.bench import solver as solver_bench
from trb_lab.bench.options import Options
from trb_lab.bench.solver_cases import accuracy, mild_case, peaked_case
from trb_lab.policy.coupling import entropy

CPU = torch.device("cpu")
EXACT = solver_bench.BISECTION


def test_solver_prints_speed_beside_accuracy():
    result = solver_bench.run(Options(repeats=1), shape=(4, 300), rows=6)
    rows = [line for table in result.tables for line in table.rows]
    assert [table.title.split(",")[-1] for table in result.tables[:2]] == [" eps 0.05", " eps 0.001"]
    assert {line.what for line in rows} == set(solver_bench.CPU_SOLVERS)
    ours = [line.notes for line in rows if line.what == solver_bench.TRUST_REGION]
    assert all(notes["largest_KL_off_budget"] <= 1e-4 and notes["over_budget"] <= 1e-5 for notes in ours)
    exact = [line.notes for line in rows if line.what == EXACT]
    assert [n["rows_at_budget"] for n in exact] == [n["rows_at_budget"] for n in ours]
    assert max(n["rows_at_budget"] for n in ours) > 0
    assert all(notes["floor"] > 0 for notes in ours)


def test_accuracy_sees_a_beta_that_is_too_large():
    case = mild_case((3, 100), CPU, torch.float32, 1)
    eps = 1e-4  # KL is beta^2 Var[r] / 2 there
    beta = solver_bench.CPU_SOLVERS[EXACT](case.inputs[0], eps)
    assert accuracy(case, eps, beta)[0] < 1e-4
    off, over, binding = accuracy(case, eps, 1.01 * beta)
    assert off == over == pytest.approx(0.0201, rel=0.05)
    assert binding == 3


def test_peaked_cases_have_the_entropy_of_a_real_model_and_always_bind():
    case = peaked_case((64, 20_000), CPU, torch.float32, 1)
    assert 0.5 < float(entropy(case.inputs[0].log_p_NV).mean()) < 2.0
    beta = solver_bench.CPU_SOLVERS[EXACT](case.inputs[0], 0.05)
    assert accuracy(case, 0.05, beta)[2] == 64


def test_inputs_are_log_probs_of_the_scores_in_their_own_dtype():
    case = mild_case((2, 50), CPU, torch.bfloat16, 1)
    given = case.inputs[0]
    assert given.p.logits_NW.dtype == torch.bfloat16
    torch.testing.assert_close(given.log_p_NV, torch.log_softmax(case.p_NV.float(), -1))
    assert case.num_bytes == 2 * 2 * 50 * 2
