"""Faults on purpose: seeded cases in which a sweep is hurt, run again until it is done, and then checked."""
