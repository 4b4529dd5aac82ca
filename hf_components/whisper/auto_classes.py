"""Make known to transformers' auto classes what this package can load, so that no remote code is needed.

Only the package itself does this. Code that a checkpoint brings along must not stand in for other checkpoints.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForSpeechSeq2Seq, WhisperConfig

from .configuration_moe_whisper import MoeWhisperConfig
from .configuration_whisper_ctc import WhisperCTCConfig
from .modeling_moe_whisper import MoeWhisperForConditionalGeneration, MoeWhisperModel
from .modeling_whisper_ctc import WhisperForCTC


class AnyWhisperConfig(WhisperConfig):
    """What `AutoConfig` makes of the model type `"whisper"`: MoE-Whisper's configuration, or stock Whisper's.

    A mixture keeps that model type, because `pipeline` decides by it. No object is of this class.
    """

    def __new__(cls, **fields):
        return WhisperConfig(**fields)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """The configuration of a `config.json`: that of a mixture if it has experts."""
        kind = MoeWhisperConfig if "num_experts" in config_dict else WhisperConfig
        return kind.from_dict(config_dict, **kwargs)


AutoConfig.register("whisper", AnyWhisperConfig, exist_ok=True)
AutoModel.register(MoeWhisperConfig, MoeWhisperModel)
AutoModelForSpeechSeq2Seq.register(MoeWhisperConfig, MoeWhisperForConditionalGeneration)
AutoConfig.register(WhisperCTCConfig.model_type, WhisperCTCConfig)
AutoModelForCTC.register(WhisperCTCConfig, WhisperForCTC)
