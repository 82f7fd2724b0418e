"""trb_lab: experiments and sweeps for on-policy distillation with Trust-Region Behavior Blending.

In a notebook, `import trb_lab as lab` and then `lab.sweeps()`, `lab.runs(...)`, `lab.report(...)`: see
docs/notebook.md. The import itself loads nothing; what is asked for is loaded then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import report
    from .notebook import Runs, runs, sweeps

__version__ = "0.1.0"
__all__ = ["Runs", "__version__", "report", "runs", "sweeps"]


def __getattr__(name: str) -> Any:
    if name == "report":  # a package that can be called
        return importlib.import_module(".report", __name__)
    if name in __all__:
        from . import notebook

        return getattr(notebook, name)
    raise AttributeError(
        f"module '{__name__}' has no attribute '{name}'. In a notebook: {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
