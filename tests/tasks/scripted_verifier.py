"""A stand-in for math-verify inside grading workers: the answer says how the worker behaves."""

import os
import time
from collections.abc import Callable


def scripted() -> Callable[[str, str], bool]:
    def verify(gold: str, answer: str) -> bool:
        print("libraries print; replies must survive it")
        if answer == "sleep":
            time.sleep(60)
        if answer == "spin":
            while True:
                pass
        if answer == "die":
            os._exit(9)
        if answer == "raise":
            raise ValueError("no")
        return gold == answer

    return verify


def broken() -> Callable[[str, str], bool]:
    raise RuntimeError("the verifier cannot be made")
