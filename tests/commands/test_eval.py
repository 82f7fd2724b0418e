"""The table that `trb-lab eval` prints."""

import pytest

from trb_lab.commands.experiments import _print_scores


def entry(samples: int, **scores: float) -> dict:
    shares = {"truncated_share": 0.1, "unboxed_share": 0.05, "empty_share": 0.0, "timeouts": 2.0}
    counts = {"num_problems": 30, "num_samples": samples}
    return {"pass_at_1": 0.5, "stderr": 0.02, **shares, **counts, **scores}


def test_one_line_a_set_with_a_dash_where_it_has_no_such_k(capsys: pytest.CaptureFixture) -> None:
    sets = {
        "hard": entry(4, pass_at_4=0.75, mean_at_4=0.5, maj_at_4=0.6),
        "amc": entry(16, pass_at_16=0.9, mean_at_16=0.5, maj_at_16=0.7),
    }
    _print_scores({"final": {"mean_pass_at_1": 0.5, "sets": sets}})
    *table, mean = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    assert [row["set"] for row in found] == ["hard", "amc"]
    assert [row["maj@4"] for row in found] == ["60.0%", "-"]
    assert [row["pass@16"] for row in found] == ["-", "90.0%"]
    assert {row["unboxed"] for row in found} == {"5.0%"}
    assert {row["time-outs"] for row in found} == {"2"}
    assert mean[-1] == "50.0%"


def test_results_from_before_there_were_shares_are_shown(capsys: pytest.CaptureFixture) -> None:
    old = {"pass_at_1": 0.5, "stderr": 0.02, "num_problems": 30, "num_samples": 4}
    _print_scores({"mean_pass_at_1": 0.5, "sets": {"hard": old}})
    table, row, mean = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert row[0] == "hard" and row[table.index("unboxed")] == "-" and mean[-1] == "50.0%"
