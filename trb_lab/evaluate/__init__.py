"""Scores on evaluation sets, and continuation gain."""
