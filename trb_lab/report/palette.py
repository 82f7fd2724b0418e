"""Colours, dashes and marks of every figure, chosen for colour-blind readers on white.

The page shows figures inline and gives each palette colour, ink and grid a CSS variable, so that dark mode recolours
lines instead of inverting pictures (`plot_style.themed_svg`).
"""

from __future__ import annotations

INK = "#1a1d21"
MUTED = "#5b6570"
GRID = "#dde1e6"
SHADE = "#eceff2"
SERIES = [
    "#0072b2", "#c8500a", "#00805a", "#a8488a", "#9a6b00", "#2a93c7", "#6b5bd0", "#d1324b", "#6f8f00", "#7a4b2f",
]  # fmt: skip
"""Arm families in order; near Okabe and Ito's, darkened to 4:1 on white."""
SERIES_DARK = [
    "#56b4e9", "#ff9152", "#3cc79a", "#e591c4", "#e6b13c", "#9ad7f5", "#a99df5", "#ff8095", "#b5d05a", "#c9a188",
]  # fmt: skip
"""The same on the page's dark ground."""
RAMP = ["#440154", "#433880", "#31678d", "#20908c", "#36a866", "#7db92f"]
"""Ordered quantities (budgets, horizons): viridis."""
DARK = {
    INK: "#e8eaed",
    MUTED: "#a3adb8",
    GRID: "#343b43",
    SHADE: "#242a31",
    **dict(zip(SERIES, SERIES_DARK, strict=True)),
    **dict(zip(RAMP, ["#b08be6", "#8f9cf0", "#6cb2e6", "#45c9c0", "#6ddc8f", "#d3e04a"], strict=True)),
}
"""Colour on white -> colour on the page's dark ground."""
KIND_COLOURS = {
    "opd": INK,
    "trb": SERIES[0],
    "teacher_forced": SERIES[1],
    "mixture": SERIES[2],
    "skd": SERIES[3],
    "temperature": SERIES[4],
    "fixed_epsilon": SERIES[5],
    "saki": SERIES[6],
    "veto": SERIES[7],
    "sft": SERIES[8],
}
"""Arms of the shipped kinds keep their colour across sweeps; further kinds take the next free one."""
DASHES = ["-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p", "d", "8"]


def colours_of(kinds: dict[str, str]) -> dict[str, str]:
    """Arm -> colour, from arm -> kind: the first arm of a shipped kind has its kind's, others the next free
    one, of those first that no kind has.
    """
    colours: dict[str, str] = {}
    for arm, kind in kinds.items():
        own = KIND_COLOURS.get(kind)
        if own and own not in colours.values():
            colours[arm] = own
    free = sorted((c for c in SERIES if c not in colours.values()), key=lambda c: c in KIND_COLOURS.values())
    return {arm: colours.get(arm) or (free.pop(0) if free else MUTED) for arm in kinds}


def ramp(n: int) -> list[str]:
    """n colours for ordered values, spread over the ramp (they repeat beyond its length)."""
    if n <= 1:
        return [RAMP[2]] * n
    first, last = (1, 4) if n == 2 else (0, 4) if n == 3 else (0, len(RAMP) - 1)
    return [RAMP[round(first + i * (last - first) / (n - 1))] for i in range(n)]
