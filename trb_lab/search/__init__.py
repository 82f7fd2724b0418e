"""Searches: what to try next, what goes on, which setting is best. Decides; starts nothing."""
