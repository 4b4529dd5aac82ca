"""An instruct model corrects the texts of a recogniser. A gate checks every edit; else the recogniser's text stays."""

from hf_components.correction.arguments import CorrectionArguments, hears, load_corrector
from hf_components.correction.corrector import Correction, TranscriptCorrector
from hf_components.correction.record import summarise
