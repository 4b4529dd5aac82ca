"""Experts in and out of a mixture: from a plain Whisper and PEFT adapters, and back to them."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from .adapters import load_adapter, save_adapter, stack_adapters
from .configuration_moe_whisper import MoeWhisperConfig
from .modeling_dynamic_whisper import DynamicContextWhisper
from .routed_lora import MERGE_RULE, stock_weights
from .router import UtteranceRouter


class ExpertExchangeMixin:
    """Make a mixture from other models, and other models from a mixture."""

    @classmethod
    def from_base(cls, base: str | Path | WhisperForConditionalGeneration, **config) -> Self:
        """Put fresh experts and a fresh router on a Whisper checkpoint; the result computes the same as the base.

        Args:
            base: Hub id, folder, or model.
            config: fields of [`MoeWhisperConfig`] that differ from its defaults.
        Raises:
            ValueError: the base is quantised, or a field is out of its range.
        """
        if not isinstance(base, WhisperForConditionalGeneration):
            base = WhisperForConditionalGeneration.from_pretrained(base)
        if getattr(base, "is_quantized", False):
            raise ValueError(f"{MERGE_RULE}, got `base` with {base.config.quantization_config.quant_method}.")
        inherited = base.config.to_dict()
        for name in ("architectures", "folded_weights"):  # of a mixture that was read as a plain Whisper
            inherited.pop(name, None)
        inherited["base_model_name_or_path"] = base.name_or_path or None
        model = cls(MoeWhisperConfig(**{**inherited, **config})).to(base.dtype)
        model.load_state_dict(base.state_dict(), strict=False)
        model.generation_config = copy.deepcopy(base.generation_config)
        model.name_or_path = base.name_or_path
        return model.eval()

    @classmethod
    def from_experts(
        cls,
        base: str | Path | WhisperForConditionalGeneration,
        adapters: list[str | Path] | str | Path,
        router: str | Path | UtteranceRouter | None = None,
        **config,
    ) -> Self:
        """Assemble a mixture from PEFT adapters of one base model.

        Args:
            base: Hub id, folder, or model.
            adapters: folders of PEFT LoRA adapters, one per expert, or the folder of `expert_0`, `expert_1` and so on.
            router: folder or object; an untrained router if None.
            config: other fields of [`MoeWhisperConfig`].
        Raises:
            ValueError: there is no adapter, one has layers below the router or fits another base, or the router has
                another number of experts.
        """
        if isinstance(adapters, (str, Path)):
            adapters = sorted(Path(adapters).glob("expert_*"), key=lambda folder: int(folder.name.split("_")[1]))
        if not adapters:
            raise ValueError("`adapters` must name at least one PEFT adapter, got none.")
        stacked, rank, scaling = stack_adapters([load_adapter(Path(folder)) for folder in adapters])
        if isinstance(router, (str, Path)):
            router, config["router_layer"] = UtteranceRouter.load(router)
        if router is not None:
            config["router_hidden_size"] = router.hidden.out_features
            if router.output.out_features != len(adapters):
                raise ValueError(f"`router` must score {len(adapters)} experts, got {router.output.out_features}.")
        model = cls.from_base(
            base,
            num_experts=len(adapters),
            lora_rank=rank,
            lora_alpha=scaling * rank,
            target_modules=sorted({name.rsplit(".", 1)[-1] for name in stacked}),
            shared_expert=False,
            **config,
        )
        model.load_experts(stacked)
        if router is not None:
            model.model.encoder.router.load_state_dict(router.state_dict())
        return model

    @torch.no_grad()
    def load_experts(self, stacked: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Set the experts of the named modules; in the others they change nothing.

        Args:
            stacked: `lora_a (experts, rank, in)` and `lora_b (experts, out, rank)` per module name.
        Raises:
            ValueError: a module has no experts, because it is below the router, or a shape is different.
        """
        layers = self.routed_layers()
        unknown = sorted(stacked.keys() - layers.keys())
        if unknown:
            raise ValueError(
                f"experts must be above encoder layer {self.config.router_layer}, which the router reads; got weights "
                f"for {unknown[0]} and {len(unknown) - 1} more. Train adapters on the layers above, or lower "
                "`router_layer`."
            )
        for name, layer in layers.items():
            if name in stacked:
                for parameter, value in zip((layer.lora_a, layer.lora_b), stacked[name], strict=True):
                    if value.shape != parameter.shape:
                        raise ValueError(
                            f"experts must fit their base model: {name} takes {tuple(parameter.shape)}, "
                            f"got {tuple(value.shape)}."
                        )
                    parameter.copy_(value)
            else:
                layer.lora_b.zero_()

    def save_experts(self, folder: str | Path) -> list[Path]:
        """Write each expert, with the shared one, as a PEFT adapter `expert_<i>`; returns the folders.

        Raises:
            ImportError: peft is not installed.
        """
        folders = []
        for expert in range(self.config.num_experts):
            lora = {}
            for name, layer in self.routed_layers().items():
                slots = self._slots_of(expert)
                # Two LoRAs together are one LoRA of twice the rank: [B_i B_s] [A_i; A_s].
                lora[name] = (layer.lora_a[slots].flatten(0, 1), torch.cat([layer.lora_b[i] for i in slots], dim=1))
            folders.append(Path(folder) / f"expert_{expert}")
            save_adapter(
                folders[-1],
                lora,
                scaling=self.config.lora_alpha / self.config.lora_rank,
                base_model=self.config.base_model_name_or_path,
            )
        return folders

    @torch.no_grad()
    def merge_expert(self, expert: int) -> WhisperForConditionalGeneration:
        """A plain Whisper with one expert (and the shared one) merged into its weights.

        Raises:
            ValueError: there is no such expert, or the model is quantised.
        """
        if not 0 <= expert < self.config.num_experts:
            raise ValueError(f"`expert` must lie in [0, {self.config.num_experts - 1}], got {expert}.")
        fields = self.config.to_dict()
        own = MoeWhisperConfig().to_dict().keys() - WhisperConfig().to_dict().keys()
        for name in own | {"auto_map", "architectures"}:
            fields.pop(name, None)
        merged = WhisperForConditionalGeneration(WhisperConfig(**fields)).to(self.dtype)
        state = stock_weights(self)
        chosen = [float(i == expert) for i in range(self.config.num_experts)]
        for name, layer in self.routed_layers().items():
            state[f"{name}.weight"] = layer.plain_weight + layer.delta(self.left_to_add(chosen))
        merged.load_state_dict(state)
        merged.generation_config = copy.deepcopy(self.generation_config)
        return merged.to(self.device).eval()

    @torch.no_grad()
    def plain_whisper(self, weights: Sequence[float], shared: float = 1.0) -> DynamicContextWhisper:
        """A plain Whisper with the experts merged by fixed weights, in a context of 30 s.

        Args:
            weights: one per expert.
            shared: weight of the shared expert.
        Raises:
            ValueError: there is another number of weights, or the model is quantised.
        """
        stock = self.merge_expert(0)
        state = stock.state_dict()
        missing = self.left_to_add(weights, shared)
        for name, layer in self.routed_layers().items():
            state[f"{name}.weight"] = layer.plain_weight + layer.delta(missing)
        plain = DynamicContextWhisper(stock.config).to(self.device, self.dtype)
        plain.load_state_dict(state)
        plain.generation_config = stock.generation_config
        return plain.eval()

    def _slots_of(self, expert: int) -> list[int]:
        return [expert, self.config.num_experts] if self.config.shared_expert else [expert]
