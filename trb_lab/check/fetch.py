"""`trb-lab check --fetch`: every hub model and data set that files name, into the hub's cache on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from trb_lab.models import catalog
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import HubDataset
from trb_lab.spec.experiment import ModelSpec
from trb_lab.tasks import hub_files

from .findings import Findings


def fetch_all(specs: Sequence[ExperimentSpec], findings: Findings) -> None:
    """One line for each hub model and data set; those that are here already are left as they are."""
    models = dict.fromkeys((m.name, m.revision) for spec in specs for m in (spec.student, spec.teacher))
    for name, revision in models:
        if not catalog.looks_like_hub_id(name):
            continue  # bundled models, and folders
        with findings.guard(f"fetch {name}"):
            here = catalog.locate(ModelSpec(name=name, revision=revision))
            findings.ok(f"fetch {name}", _told(here is not None, here or catalog.fetch(name, revision)))
    sets = [dataset for spec in specs for dataset in (spec.dataset, *(s.dataset for s in spec.eval.sets))]
    for dataset in {(d.id, d.revision): d for d in sets if isinstance(d, HubDataset)}.values():
        with findings.guard(f"fetch {dataset.id}"):
            found = hub_files.locate(dataset)
            folder = found.folder if found is not None else hub_files.fetch(dataset)
            findings.ok(f"fetch {dataset.id}", _told(found is not None, folder))


def _told(was_here: bool, folder: object) -> str:
    return f"{'already here' if was_here else 'fetched'}: {folder}"
