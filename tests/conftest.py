"""Test-wide settings: one thread, and caches in a temporary folder."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """Tests never write to the user's cache."""
    before = os.environ.get("TRB_LAB_CACHE")
    os.environ["TRB_LAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TRB_LAB_CACHE"]
    else:
        os.environ["TRB_LAB_CACHE"] = before
