"""Query by example: where in a corpus something sounds like a recording."""

from hf_components.units.search.example import find_example
