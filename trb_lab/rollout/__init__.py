"""The two-model rollout engine."""
