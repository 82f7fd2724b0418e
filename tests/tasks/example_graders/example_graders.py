"""Two graders for trb_lab: a function that compares boxed answers, and a class that reads the response itself."""

import re


def same_letters(gold: str, answer: str) -> bool:
    """Free-text answers: capitals and everything but letters and digits are ignored."""
    return re.sub(r"\W", "", gold).lower() == re.sub(r"\W", "", answer).lower()


class PythonFunction:
    """Code tasks: the last code block must pass the gold, a line of assertions."""

    golds_are_answers = False  # a gold is a test, which does not pass itself

    def extract(self, response: str) -> str | None:
        blocks = re.findall(r"```(?:python)?\n(.*?)```", response, re.DOTALL)
        return blocks[-1] if blocks else None

    def verify(self, gold: str, answer: str) -> bool:
        names: dict = {}
        try:
            # Nothing keeps this code from files or the network: run strangers' code in a sandbox instead.
            exec(answer, names)
            exec(gold, names)
        except Exception:
            return False
        return True
