r"""The process that runs math-verify, or another grader's `verify`: `VerifierPool` starts it as a script.

It imports nothing of this package. Standard input: a JSON line for each pair, `{"gold", "answer"}`. Standard
output: `{"ready": true}` once the verifier is imported, then `{"outcome": "correct"|"wrong"|"error"}` for each
pair in turn. The process ends when its input does.

math-verify guards itself with SIGALRM, which raises off the main thread and cannot interrupt one long
operation on big integers (`5^(5^(5^5))`). Here that guard is off. Instead the kernel kills the process when a
pair has used its share of CPU time (SIGPROF, which nothing handles), and the parent starts another. CPU time,
so that a busy machine does not change verdicts.

Usage: python -P grading_worker.py CPU_SECONDS [FILE.py:NAME | MODULE:NAME]
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 2 << 30
"""Address space of a worker. An answer that takes more to compare is wrong."""

Verify = Callable[[str, str], bool]


def math_verifier() -> Verify:
    """(gold, answer) -> whether math-verify finds them equal."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    @lru_cache(maxsize=4096)
    def parse_gold(gold: str) -> list:
        marked = any(mark in gold for mark in ("$", "\\boxed", "\\(", "\\["))
        # Without marks "2^(n-1)" is read as 2, and "(1,2)" as nothing.
        return parse(gold if marked else f"${gold}$", parsing_timeout=None)

    def check(gold: str, answer: str) -> bool:
        predicted = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
        return bool(verify(parse_gold(gold), predicted, timeout_seconds=None))

    return check


def load_verifier(reference: str) -> Verify:
    """The verifier that `FILE.py:NAME` or `MODULE:NAME` names: a function, or an object or class with `verify`."""
    import importlib
    import importlib.util

    where, _, name = reference.rpartition(":")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location("verifier", where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, type):
        found = found()
    return getattr(found, "verify", found)


def main() -> None:
    """Serve pairs until the input ends."""
    # Interrupts are the parent's to handle: it ends this process by closing its input, or by SIGKILL.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a cluster's word that the time limit is near
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not reach the parent
    pairs = os.fdopen(os.dup(0), encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a verifier that runs programs: they must not wait for our pairs

    def reply(message: dict) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        cpu_seconds = float(sys.argv[1])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
        if len(sys.argv) > 2:
            verify = load_verifier(sys.argv[2])
        else:
            verify = math_verifier()
            verify("1", "1")  # the first call builds the parsers' tables
    except BaseException:
        reply({"fatal": traceback.format_exc()})
        return
    reply({"ready": True})
    for line in pairs:
        pair = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            correct = verify(pair["gold"], pair["answer"])
        except Exception:
            outcome = "error"
        else:
            outcome = "correct" if correct else "wrong"
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply({"outcome": outcome})


if __name__ == "__main__":
    main()
