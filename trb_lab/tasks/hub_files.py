"""Where a hub data set's files are on this machine, and how they get there. Nothing but `fetch` uses the network.

Runs read files that are already here, as they do for models: clusters often have no network, and a download that
begins in the middle of a sweep begins in every one of its workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trb_lab.errors import UsageError
from trb_lab.spec.dataset import HubDataset

DATA_VARIABLE = "TRB_LAB_DATA"
"""Environment variable: a folder that holds data sets as `<owner>/<name>`, each in the hub's layout."""


class NotAtHand(UsageError):
    """The data set exists, as far as is known, but its files are not on this machine."""


@dataclass(frozen=True)
class HubFiles:
    """A data set's folder on this machine."""

    folder: Path
    commit: str | None
    """Commit of a snapshot in the hub's cache; None for a folder that anybody may have filled."""

    def files(self) -> Iterator[Path]:
        """Everything in the folder, in the order of the paths, but for hidden files (download records, .git)."""
        for path in sorted(self.folder.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(self.folder).parts)
            if path.is_file() and not hidden:
                yield path


def locate(spec: HubDataset, source: str = "dataset") -> HubFiles | None:
    """The data set's files: a folder of that name, `$TRB_LAB_DATA/<owner>/<name>`, or the hub's cache.

    None where they are not here. Raises UsageError for what is neither a folder nor a hub id.
    """
    folder = Path(spec.id).expanduser()
    if folder.is_dir():
        return HubFiles(folder.absolute(), None)
    check_id(spec.id, source)
    root = os.environ.get(DATA_VARIABLE)
    if root and (Path(root).expanduser() / spec.id).is_dir():
        return HubFiles((Path(root).expanduser() / spec.id).absolute(), None)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            spec.id, repo_type="dataset", revision=spec.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return HubFiles(Path(snapshot), Path(snapshot).name)


def find(spec: HubDataset, source: str = "dataset") -> HubFiles:
    """As `locate`; where the files are not here, NotAtHand says how to fetch them."""
    found = locate(spec, source)
    if found is not None:
        return found
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    revision = f" --revision {spec.revision}" if spec.revision else ""
    raise NotAtHand(
        f"{source}: data set '{spec.id}' is not on this machine{offline}. Where there is a network, fetch what a file "
        f"names: trb-lab check --fetch FILE (models alone: trb-lab models fetch HUB_ID). Or copy a folder that was "
        f"fetched elsewhere (hf download --repo-type dataset {spec.id}{revision} --local-dir DIR) "
        f"to ${DATA_VARIABLE}/{spec.id}."
    )


def check_id(name: str, source: str) -> None:
    """Raises UsageError for what cannot be a hub id."""
    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest or name.startswith((".", "~")):
        raise UsageError(f"{source}.id: '{name}' is neither a folder nor a hub id (owner/name).")


def fetch(spec: HubDataset) -> Path:
    """Download the data set into the hub's cache and return its folder. Raises UsageError when it does not come."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.id, repo_type="dataset", revision=spec.revision))
    except Exception as error:  # the hub's clients raise many kinds; all mean that it did not come
        raise UsageError(
            f"could not fetch data set '{spec.id}': {type(error).__name__}: {str(error).partition(chr(10))[0]}\n"
            f"Where this machine has no network, fetch it on one that has and copy it to ${DATA_VARIABLE}/{spec.id}."
        ) from error
