"""Any text as LaTeX that pdflatex sets as it is written: nothing in it is a command."""

from __future__ import annotations

import unicodedata

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"'{}",  # no ligature of two
    "`": r"\textasciigrave{}",
    "-": r"-{}",  # nor of hyphens
    ",": r",{}",  # nor of commas, a quotation mark in T1
    "?": r"?{}",
    "!": r"!{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "\u00a0": "~",
    "\u202f": r"\,",
    "±": r"$\pm$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "−": r"$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "←": r"$\leftarrow$",
    "→": r"$\rightarrow$",
    "↔": r"$\leftrightarrow$",
    "√": r"$\surd$",
    "∑": r"$\sum$",
    "∈": r"$\in$",
    "°": r"\textdegree{}",
    "µ": r"$\mu$",
    "²": r"$^2$",
    "³": r"$^3$",
    "‖": r"$\Vert$",
    "∥": r"$\Vert$",
    "€": r"\texteuro{}",
}
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
    "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ",
    "Psi": "Ψ", "Omega": "Ω", "epsilon": "ϵ", "varphi": "ϕ", "ell": "ℓ",
}  # fmt: skip
ESCAPES |= {letter: rf"$\{name}$" for name, letter in GREEK.items()}
ESCAPES |= {chr(0x2080 + digit): rf"$_{digit}$" for digit in range(10)}
ESCAPES |= {c: "{" + c + "}" for c in "[]*"}  # after a line break in a table they would be its options
LIGATING = "'-,?!`\"<>"
BREAK = r"\allowbreak{}"
LONGEST_WORD = 14
"""Characters after which a word without a space may break."""


def latex_text(text: str, breakable: bool = False) -> str:
    """One line of LaTeX; `breakable`: long words may break, without a hyphen.

    Characters that pdflatex has no glyph for are written as U+XXXX.
    """
    out, run = [], 0
    line = " ".join(text.split()) if any(c in text for c in "\n\r\t\v\f") else text
    for i, char in enumerate(line):
        alone = line[i + 1 : i + 2] not in tuple(LIGATING) and line[max(i - 1, 0) : i] not in tuple(LIGATING)
        out.append(char if char in "'-,?!" and alone else ESCAPES.get(char) or _plain(char))
        run = 0 if char.isspace() else run + 1
        inside = i + 1 < len(line) and not line[i + 1].isspace() and not char.isspace()
        if breakable and inside and (run >= LONGEST_WORD or (run > 2 and char in "=_/@")):
            out.append(BREAK)
            run = 0
    return "".join(out)


def _plain(char: str) -> str:
    return char if char.isascii() and char.isprintable() else _other(char)


ACCENTS = (0x300, 0x301, 0x302, 0x303, 0x308, 0x30A, 0x30B, 0x30C, 0x327)
"""Combining marks that T1 has with letters."""


def _other(char: str) -> str:
    """Latin letters with accents as they are (utf8 is LaTeX's own encoding), the rest by number."""
    if char.isspace():
        return " "
    letter = unicodedata.normalize("NFD", char)
    latin = unicodedata.name(char, "").startswith("LATIN") and 0xC0 <= ord(char) <= 0x17F
    if latin and len(letter) == 2 and letter[0].isascii() and ord(letter[1]) in ACCENTS:
        return char
    return char if char in "ßæœøÆŒØłŁ" else f"U+{ord(char):04X}"
