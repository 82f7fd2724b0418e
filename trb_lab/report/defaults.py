"""The report that every sweep gets without anybody writing one: everything its runs have data for."""

from __future__ import annotations

from trb_lab.spec.report import ReportSpec

BLOCKS: list[dict[str, str]] = [
    {"kind": "findings"},
    {"kind": "table", "table": "scores"},
    {"kind": "table", "table": "selection"},
    {"kind": "table", "table": "problems"},
    {"kind": "search"},
    {"kind": "figure", "figure": "score_by_budget"},
    {"kind": "figure", "figure": "score_by_cost"},
    {"kind": "figure", "figure": "learning_curves"},
    {"kind": "figure", "figure": "trust_region"},
    {"kind": "figure", "figure": "early_rollouts"},
    {"kind": "figure", "figure": "teacher_entropy"},
    {"kind": "figure", "figure": "best_over_training"},
    {"kind": "figure", "figure": "support_reward"},
    {"kind": "table", "table": "cost"},
    {"kind": "table", "table": "health"},
    {"kind": "failures"},
    {"kind": "excerpt"},
    {"kind": "setup"},
]


def sweep_definition(sweep: str, question: str) -> ReportSpec:
    """The definition of a sweep's own report."""
    return ReportSpec.model_validate(
        {
            "name": sweep,
            "title": sweep,
            "question": question,
            "sources": {"sweep": {"sweep": sweep}},
            "blocks": BLOCKS,
        }
    )
