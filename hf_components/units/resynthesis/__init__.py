"""Judge a unit vocoder: segments spoken again from their units, beside their originals, in figures and to listen
to."""
