"""Judge a unit vocoder: segments spoken again from their units, beside their originals, in figures and to listen
to."""

from hf_components.units.resynthesis.judging import hear, judge_segment, resynthesise, shuffled, units_of
from hf_components.units.resynthesis.page import write_page
from hf_components.units.resynthesis.speaking import pitches_of, speak, voices_of
from hf_components.units.resynthesis.summary import summarise, table

__all__ = [
    "hear",
    "judge_segment",
    "pitches_of",
    "resynthesise",
    "shuffled",
    "speak",
    "summarise",
    "table",
    "units_of",
    "voices_of",
    "write_page",
]
