"""Where a sweep's runs are in MLflow, read from what the mirror noted beside the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from trb_lab.store.run_dir import SweepDir, read_json

LOCAL_ADDRESS = "http://127.0.0.1:5000"
"""Where `trb-lab ui` answers, unless it is told otherwise."""


@dataclass(frozen=True)
class MlflowLinks:
    """Addresses of runs. `local`: the store's own database, which somebody has to serve first."""

    address: str
    local: bool
    experiment: str
    runs: dict[str, str] = field(default_factory=dict)
    """Run id -> MLflow's run id."""

    def path(self, run_id: str) -> str | None:
        """`#/experiments/<id>/runs/<run>`, None for a run that is not in MLflow."""
        run = self.runs.get(run_id)
        return None if run is None else f"#/experiments/{self.experiment}/runs/{run}"


def mlflow_links(sweep: SweepDir) -> MlflowLinks | None:
    """Of a server where the sweep was sent to one, else of the store's own database; None where there is neither."""
    found: list[MlflowLinks] = []
    for file in sorted(sweep.path.glob("mlflow*.json")):
        state = read_json(file) or {}
        uri, experiment = str(state.get("tracking_uri") or ""), str(state.get("experiment_id") or "")
        if not experiment:
            continue
        runs = {
            str(run_id): str(entry["mlflow_run_id"])
            for run_id, entry in sorted((state.get("runs") or {}).items())
            if entry.get("mlflow_run_id") and not entry.get("deleted")
        }
        if uri.startswith(("http://", "https://")):
            found.insert(0, MlflowLinks(_without_password(uri), False, experiment, runs))
        elif uri.startswith("sqlite:"):
            found.append(MlflowLinks(LOCAL_ADDRESS, True, experiment, runs))
    return found[0] if found else None


def _without_password(uri: str) -> str:
    """The address without user, password and query: a page is passed on."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
