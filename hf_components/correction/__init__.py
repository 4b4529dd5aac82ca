"""An instruct model corrects what a recogniser heard; every edit passes a gate, or the recogniser's text stays."""

from hf_components.correction.arguments import CorrectionArguments, load_corrector
from hf_components.correction.corrector import Correction, TranscriptCorrector
from hf_components.correction.record import summarise
