"""Views of an experiment that MLflow's pages open by a link: trials by score, charts by setting, samples side by side.

MLflow keeps a view that somebody shares as a tag of the experiment, and its pages read it from there. Trials that are
nested below their sweep are folded away at first, and with them their charts; these views name them all.
"""

from __future__ import annotations

import json
from typing import Any

from .mlflow_notes import experiment_address

VIEW_TAG = "mlflow.sharedViewState."
SCORE = "metrics.`final/mean_pass_at_1`"
COLUMNS = ("tags.`arm`", "tags.`setting`", "tags.`seed`", SCORE, "metrics.`rollout/reward`")
CHARTS = "eval/mean|rollout/reward|rollout/length_mean|train/reverse_kl|policy/kl_mean|policy/redraw"
"""Charts to begin with, as a regular expression: a run has more than a hundred."""
VIEWS: dict[str, dict[str, Any]] = {
    "trials": {
        "selectedColumns": COLUMNS,
        "searchFilter": "tags.`trb.role` != 'sweep'",
        "orderByKey": SCORE,
        "orderByAsc": False,
    },
    "settings": {
        "selectedColumns": COLUMNS,
        "searchFilter": "tags.`trb.role` = 'trial'",
        "runsHiddenMode": "FIRST_20_RUNS",
        "chartsSearchFilter": CHARTS,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": tag} for tag in ("arm", "setting")],
        },
    },
}
"""Name of a view -> what MLflow's pages keep of it; what is not named is as they have it at first."""


def view_tags(seed: str) -> dict[str, str]:
    """Tags of an experiment that hold the views. Samples are those of one seed: others draw other prompts."""
    wanted = f"tags.`trb.role` = 'trial' and tags.`seed` = '{seed}'"
    # Sorted by anything but the time of creation, trials are not folded away below their sweep.
    samples = {"searchFilter": wanted, "orderByKey": SCORE, "orderByAsc": False}
    return {VIEW_TAG + name: json.dumps(view) for name, view in {**VIEWS, "samples": samples}.items()}


def view_links(experiment_id: str) -> str:
    """Links to the views, in Markdown."""
    shared = f"{experiment_address(experiment_id)}?viewStateShareKey="
    links = {
        "trials by score": f"{shared}trials",
        "charts by setting": f"{shared}settings&compareRunsMode=CHART",
        "samples side by side": f"{shared}samples&compareRunsMode=ARTIFACT",
    }
    return " · ".join(f"[{text}]({address})" for text, address in links.items())
