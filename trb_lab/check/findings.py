"""What a preflight finds: one plain line each, with what to do where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trb_lab.errors import LabError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check."""

    subject: str
    """What was looked at: a key path of the spec, or `memory`."""
    state: State
    text: str
    case: str = ""
    """Which trials of a sweep, where a file needs several preflights."""

    def line(self) -> str:
        first, *more = self.text.splitlines() or [""]
        subject = f"{self.subject}: " if self.subject else ""
        return "\n".join([f"  {self.state:<4}  {subject}{first}", *(f"        {rest}" for rest in more)])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Findings:
    """Checks in the order in which they were made."""

    all: list[Finding] = field(default_factory=list)
    case: str = ""
    """Written into the findings that follow."""

    def ok(self, subject: str, text: str) -> None:
        self.all.append(Finding(subject, "ok", text, self.case))

    def warn(self, subject: str, text: str) -> None:
        self.all.append(Finding(subject, "warn", text, self.case))

    def fail(self, subject: str, text: str) -> None:
        self.all.append(Finding(subject, "fail", text, self.case))

    @property
    def failed(self) -> bool:
        return any(f.state == "fail" for f in self.all)

    @contextmanager
    def guard(self, subject: str) -> Iterator[None]:
        """A check that cannot be carried out has failed: its error becomes a line."""
        try:
            yield
        except LabError as error:
            self.fail(subject, str(error).removeprefix(f"{subject}: "))
        except FileNotFoundError as error:
            self.fail(subject, f"{error.filename} does not exist.")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            # Files of others can be broken in any way; the libraries that read them raise all of these.
            self.fail(subject, f"cannot be read: {type(error).__name__}: {error}")
