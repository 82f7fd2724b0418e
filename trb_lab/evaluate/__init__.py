"""pass@1 on evaluation sets, and diagnostics."""
