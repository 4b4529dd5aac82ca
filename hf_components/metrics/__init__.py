"""`evaluate` modules, one CLOSED folder each."""
