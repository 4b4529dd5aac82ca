"""Acoustic units of languages without a script: learn them, join them to motifs, speak them with a vocoder.

The models themselves are in `hf_components.acoustic_units` and `hf_components.unit_hifigan`.
"""

from hf_components.units.release import release_units
from hf_components.units.table import SECONDS_PER_UNIT, UnitTable, check_same_units, read_units, units_schema
