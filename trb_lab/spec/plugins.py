"""Spec classes of installed packages, by entry point. The packages are imported: they must be free of torch."""

from __future__ import annotations

from functools import reduce
from importlib.metadata import entry_points
from operator import or_
from typing import Any

from trb_lab.errors import UsageError

from .base import Spec


def with_plugins(group: str, builtin: tuple[type[Spec], ...]) -> Any:
    """The union of the built-in spec classes and those that installed packages register under `group`.

    An entry point names a subclass of the first built-in's base with a `kind` that nobody else has.

    Raises:
        UsageError: the package cannot be imported, or what it names is no such class.
    """
    found = list(builtin)
    for entry in sorted(entry_points(group=group), key=lambda e: e.name):
        found.append(_load(group, entry, found))
    return reduce(or_, found)


def _load(group: str, entry: Any, known: list[type[Spec]]) -> type[Spec]:
    package = entry.dist.name if entry.dist else "an installed package"
    where = f"{package}: entry point {entry.name!r} of group {group} ({entry.value})"
    remedy = "Mend that package, or uninstall it."
    try:
        model = entry.load()
    except Exception as error:  # whatever a foreign module raises, the reader must learn whose it is
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}. {remedy}") from error
    base: Any = known[0].__mro__[1]
    fields: dict[str, Any] = getattr(model, "model_fields", {})
    if not (isinstance(model, type) and issubclass(model, base) and "kind" in fields):
        raise UsageError(f"{where} is not a subclass of {base.__name__} with a field `kind`. {remedy}")
    kind = fields["kind"].default
    if any(kind == other.model_fields["kind"].default for other in known):
        raise UsageError(
            f"{where}: the kind {kind!r} is taken. Give it another name, or uninstall that package."
        )
    if kind != entry.name:
        raise UsageError(f"{where} has kind {kind!r}: the entry point must have the same name. {remedy}")
    return model
