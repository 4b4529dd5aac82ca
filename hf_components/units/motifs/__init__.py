"""Runs of units that recur: learned, counted, and shown to linguists."""
