"""Make known to transformers' auto classes what this package can load, so that no remote code is needed.

Only the package itself does this. Code that a checkpoint brings along must not stand in for other checkpoints.
"""

from transformers import AutoConfig, AutoModel

from .configuration_unit_hifigan import UnitHifiGanConfig
from .modeling_unit_hifigan import UnitHifiGanModel

AutoConfig.register(UnitHifiGanConfig.model_type, UnitHifiGanConfig)
AutoModel.register(UnitHifiGanConfig, UnitHifiGanModel)
