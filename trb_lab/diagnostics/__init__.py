"""What `trb-lab diagnose` looks at: the expensive diagnostics, and tables of what runs have recorded."""
