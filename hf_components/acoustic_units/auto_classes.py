"""Make known to transformers' auto classes what this package can load, so that no remote code is needed.

Only the package itself does this. Code that a checkpoint brings along must not stand in for other checkpoints.
"""

from transformers import AutoConfig, AutoModel

from .configuration_acoustic_units import AcousticUnitsConfig
from .modeling_acoustic_units import AcousticUnitsModel

AutoConfig.register(AcousticUnitsConfig.model_type, AcousticUnitsConfig)
AutoModel.register(AcousticUnitsConfig, AcousticUnitsModel)
