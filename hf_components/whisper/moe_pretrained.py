"""What encoder, decoder and models of MoE-Whisper share: initialisation, saving, linear layers with experts."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel

from .configuration_moe_whisper import TARGETS, MoeWhisperConfig
from .folding import FoldingMixin
from .routed_lora import RoutedLinear, RoutingState
from .router import UtteranceRouter

AUTO_MODEL = "modeling_moe_whisper.MoeWhisperModel"  # what `AutoModel` loads from the files beside a checkpoint


class MoeWhisperPreTrainedModel(FoldingMixin, WhisperPreTrainedModel):
    """Base class: how weights are initialised, saved with experts folded in, and kept out of quantisation."""

    config: MoeWhisperConfig
    config_class = MoeWhisperConfig
    # transformers quantises none of these: the router, and the whole of a routed layer, but what is inside that.
    _keep_in_fp32_modules = [r".*\.router", rf".*\.({'|'.join(TARGETS)})(?!\.)"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, RoutedLinear):
            if module.num_experts:
                # The same as PEFT (Kaiming with a = sqrt 5): A uniform, B zero, so a fresh expert changes nothing.
                bound = module.in_features**-0.5
                init.uniform_(module.lora_a, -bound, bound)
                init.zeros_(module.lora_b)
            return
        super()._init_weights(module)
        if isinstance(module, UtteranceRouter):
            init.zeros_(module.mean)
            init.ones_(module.std)

    def save_pretrained(self, save_directory, **kwargs):
        """The same as in transformers, with experts folded into the plain weights; known to `AutoModel` too."""
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), "AutoModel": AUTO_MODEL}
        super().save_pretrained(save_directory, **kwargs)


def add_routed_lora(layers: nn.ModuleList, config: MoeWhisperConfig, state: RoutingState, first: int = 0) -> None:
    """Replace all linear layers by `RoutedLinear`, with experts in the target modules from layer `first` on."""
    slots = config.num_experts + config.shared_expert  # the shared expert is the last slot
    for index, layer in enumerate(layers):
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if name in TARGETS and type(child) is nn.Linear:
                    experts = slots if index >= first and name in config.target_modules else 0
                    scaling = config.lora_alpha / config.lora_rank
                    routed = RoutedLinear(child, experts, config.lora_rank, scaling, config.lora_dropout, state)
                    setattr(parent, name, routed)
