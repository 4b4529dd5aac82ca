"""Discrete acoustic units of speech. Closed: the Hub copies this folder to users' machines.

Imports torch, numpy and transformers.
"""

from . import auto_classes
from .configuration_acoustic_units import DEFAULT_ENCODER, FRAME, MFCC, SYLLABLE, AcousticUnitsConfig
from .modeling_acoustic_units import AcousticUnitsModel, EncodedUnits, timed
from .nearest import nearest_centroid, where_float64_is

__all__ = [
    "DEFAULT_ENCODER",
    "FRAME",
    "MFCC",
    "SYLLABLE",
    "AcousticUnitsConfig",
    "AcousticUnitsModel",
    "EncodedUnits",
    "nearest_centroid",
    "timed",
    "where_float64_is",
]
