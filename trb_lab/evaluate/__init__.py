"""Scores on evaluation sets, and diagnostics."""
