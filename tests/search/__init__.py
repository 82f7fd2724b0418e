"""Tests of trb_lab/search."""
