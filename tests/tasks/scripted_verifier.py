"""A stand-in for math-verify inside grading workers: the answer says how the worker behaves."""

import os
import subprocess
import sys
import time


def scripted(gold: str, answer: str) -> bool:
    print("libraries print; replies must survive it")
    if answer == "sleep":
        time.sleep(60)
    if answer == "program":
        return subprocess.run([sys.executable, "-c", "print(input())"], capture_output=True).returncode == 1
    if answer == "spin":
        while True:
            pass
    if answer == "die":
        os._exit(9)
    if answer == "raise":
        raise ValueError("no")
    return gold == answer


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("the verifier cannot be made")

    def verify(self, gold: str, answer: str) -> bool:
        raise AssertionError("it was never made")
