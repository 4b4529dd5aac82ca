"""Judge a unit vocoder: segments spoken again from their units, beside their originals, in figures and to listen
to."""

from hf_components.units.resynthesis.measuring import hear, measure_segment, resynthesise, shuffled, units_of
from hf_components.units.resynthesis.page import write_page
from hf_components.units.resynthesis.speaking import pitches_of, speak, voices_of
from hf_components.units.resynthesis.summary import summarise, table
