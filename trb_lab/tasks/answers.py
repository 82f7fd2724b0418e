r"""Find the final answer of a response, the content of its last `\boxed{...}`, and tell spellings of it apart."""

from __future__ import annotations

import re

_PIECE = re.compile(r"(?P<box>\\+(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` or `\fbox{...}`, outer blanks removed; None without one.

    Braces nest, escaped ones (`\{`) do not count, and a box that is never closed (a response cut at its
    limit) is passed over in favour of the one before it. Of boxes inside boxes the last to open counts.
    """
    open_groups: list[int | None] = []  # where the content of a box starts; None for any other brace
    last: tuple[int, int] | None = None
    for piece in _PIECE.finditer(text):
        if piece["box"]:
            open_groups.append(piece.end())
        elif piece[0] == "{":
            open_groups.append(None)
        elif piece[0] == "}" and open_groups:
            start = open_groups.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, piece.start())
    return None if last is None else text[last[0] : last[1]].strip()


_BLANK = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! ]|\\?\$|[\s~]+")


def normal_form(answer: str) -> str:
    r"""The answer without what does not change it: blanks, `$`, `\left` and `\right`, a closing full stop; `\frac` for
    `\dfrac` and `\tfrac`. Nothing is computed: 1/2 and 0.5 stay two spellings.
    """
    bare = _BLANK.sub("", answer).removesuffix(".")
    return re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", bare)
