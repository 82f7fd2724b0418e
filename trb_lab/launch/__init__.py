"""How jobs get to run: one launcher interface, whatever the scale. Needs no torch."""
