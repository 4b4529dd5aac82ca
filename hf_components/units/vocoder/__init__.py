"""Training of the unit vocoder against discriminators."""

from hf_components.units.vocoder.arguments import AdversarialArguments
from hf_components.units.vocoder.crops import UnitCrops
from hf_components.units.vocoder.report import Listener, plot_finished, save_vocoder, write_log
from hf_components.units.vocoder.trainer import JUDGED, AdversarialTrainer
from hf_components.units.vocoder.voices import require_known_voices, require_voices
