"""The driver's side of a sweep: plan, lease, view, end, and what looks at or tidies up a store. Needs no torch."""
