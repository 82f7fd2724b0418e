"""The science: pure tensor functions. No logging, no configuration look-ups, no device moves."""
