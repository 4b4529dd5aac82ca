"""Vocoder of acoustic units. Closed: the Hub copies this folder to users' machines.

Imports torch and transformers. `discriminators` is for training only: no file of a checkpoint imports it, so it is not
copied into a checkpoint.
"""

from . import auto_classes
from .configuration_unit_hifigan import UnitHifiGanConfig
from .modeling_unit_hifigan import UnitHifiGanModel

__all__ = ["UnitHifiGanConfig", "UnitHifiGanModel"]
