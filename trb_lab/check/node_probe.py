"""What a compute node sees: copied beside the store's other files and run there by itself.

It may meet any Python and no trb_lab at all, so it uses the standard library of old versions alone. Its folder
holds `token` (written by the other side), `lock` (held by it with flock) and takes `hello.json`, `probe.json`.
"""

import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time

PACKAGES = ("torch", "transformers", "submitit", "cloudpickle", "pydantic", "safetensors", "numpy")
REPLY_SECONDS = 30.0


def code_digest(folder: str) -> str:
    """A short hash of a package's Python files, to tell copies apart."""
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(parent, name)
                digest.update(os.path.relpath(path, folder).encode())
                with open(path, "rb") as f:
                    digest.update(f.read())
    return digest.hexdigest()[:12]


def versions() -> dict:
    """Package -> installed version, None where it is missing."""
    try:
        metadata = importlib.import_module("importlib.metadata")
    except ImportError:  # Python 3.7 and older: too old for everything else as well
        return {}
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _write(folder: str, name: str, value: dict) -> None:
    path = os.path.join(folder, name)
    with open(path + ".tmp", "w") as f:
        json.dump(value, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def lock_seen(path: str) -> str:
    """`seen` where the other side's flock keeps us out, `unseen`, or an error's name."""
    try:
        with open(path, "r+") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "unseen"
    except BlockingIOError:
        return "seen"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _handshake(folder: str) -> dict:
    """The other side's clock against ours: it was `there` at some moment between `asked` and `answered`."""
    asked = time.time()
    _write(folder, "hello.json", {"time": asked, "host": socket.gethostname()})
    end = time.monotonic() + REPLY_SECONDS
    while time.monotonic() < end:
        os.listdir(folder)  # lets a network file system look again
        text = _read(os.path.join(folder, "reply.json"))
        if text:
            return {"asked": asked, "there": json.loads(text)["time"], "answered": time.time()}
        time.sleep(0.1)
    return {}


def _lab() -> dict:
    try:
        module = importlib.import_module("trb_lab")
    except Exception as error:  # whatever a broken installation raises belongs into the verdict
        return {"error": "%s: %s" % (type(error).__name__, error)}  # noqa: UP031
    path = os.path.dirname(os.path.realpath(module.__file__ or ""))
    return {"version": getattr(module, "__version__", ""), "path": path, "code": code_digest(path)}


def _torch() -> dict:
    try:
        torch = importlib.import_module("torch")
        return {"gpus": torch.cuda.device_count(), "cuda": torch.version.cuda}
    except Exception as error:  # missing libraries raise OSError, broken ones anything
        return {"error": "%s: %s" % (type(error).__name__, error)}  # noqa: UP031


def _command(words: list) -> str:
    """What a command printed, and nothing where it failed."""
    try:
        return subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        ).stdout.decode()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main(folder: str) -> int:
    job = os.environ.get("SLURM_JOB_ID", "")
    found = {
        "host": socket.gethostname(),
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "token": _read(os.path.join(folder, "token")).strip(),
        "lock": lock_seen(os.path.join(folder, "lock")),
        "clock": _handshake(folder),
        "versions": versions(),
        "lab": _lab(),
        "torch": _torch(),
        "nvidia_smi": sum(line.startswith("GPU ") for line in _command(["nvidia-smi", "-L"]).splitlines()),
        "scontrol": shutil.which("scontrol") or "",
        "job": _command(["scontrol", "show", "job", "--oneliner", job]) if job else "",
        "free_bytes": shutil.disk_usage(folder).free,
    }
    _write(folder, "probe.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
