"""The workers of a case: fake or real, and armed with a failpoint where the case wants one to die.

`python worker.py VERB RUN_DIR`. $FAULTS_ARMED is a folder; `<start of a run id>.json` in it says
{"point": "worker.metrics.after:2", "times": 1}: the first so many workers of that run die there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def arm(run_id: str) -> None:
    os.environ.pop("TRB_LAB_FAILPOINT", None)  # that of a driver
    folder = Path(os.environ["FAULTS_ARMED"])
    for path in folder.glob("*.json"):
        if not run_id.startswith(path.stem):
            continue
        how = json.loads(path.read_text())
        if how["times"] > 0:
            path.write_text(json.dumps({**how, "times": how["times"] - 1}))
            os.environ["TRB_LAB_FAILPOINT"] = how["point"]


def main() -> None:
    verb, path = sys.argv[1], Path(sys.argv[2])
    if verb == "run":
        arm(path.name)
    if os.environ.get("FAULTS_REAL"):
        os.execv(sys.executable, [sys.executable, "-m", "trb_lab.cli", verb, "--run-dir", str(path)])
    from tests.launch import fake_worker

    fake_worker.main(path)


if __name__ == "__main__":
    main()
