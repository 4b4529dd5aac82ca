"""One training step in which all experts take part, beside a loop over as many PEFT adapters.

OMP_NUM_THREADS=1 python benchmarks/soft_routing.py --size tiny --num_experts 8 --profile

The loop runs the model forwards and backwards once per adapter, and weighs the losses by given gates. The mixture of
probabilities ("logits") does the same in training, and both losses are compared. The default mixture of LoRA
("weights") needs one pass for all experts. "alignment" adds the teacher of the recipes, which shows the router the
loss of each expert alone. All see the clips at their own length.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from peft import PeftModel
from transformers import WhisperFeatureExtractor

from benchmarks.side_by_side import Work, compare
from benchmarks.synthetic import SIZES, clips, transcript, whisper
from hf_components.moe import RoutingArguments, routing_losses
from hf_components.speech import log_mel
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--router_layers", type=int, nargs="+", help="default: the middle and the last of the encoder")
    parser.add_argument("--num_experts", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.5, help="length of the clips")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args(argv)

    features = log_mel(WhisperFeatureExtractor(), clips([args.seconds] * args.batch_size))
    labels = torch.tensor([transcript(args.seconds)] * args.batch_size)
    layers = SIZES[args.size]["layers"]
    return {layer: measure(layer, features, labels, args) for layer in args.router_layers or (layers // 2, layers)}


def measure(router_layer: int, features: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace) -> dict:
    base = whisper(args.size, DynamicContextWhisper)
    model = MoeWhisperForConditionalGeneration.from_base(
        base, num_experts=args.num_experts, router_layer=router_layer, routing="soft"
    ).train()
    for layer in model.routed_layers().values():
        torch.nn.init.normal_(layer.lora_b, std=0.02)
    model.train_only(experts=True, router=True)
    loop = AdapterLoop(base, model)
    gates = model.route(features).detach()

    with model.override(mixture="logits"), torch.no_grad():
        loss = float(model(features, labels=labels).loss)
    torch.testing.assert_close(loop.step(features, labels, gates), loss, rtol=1e-3, atol=0)
    works = {
        "weights": Work(lambda: step(model, features, labels)),
        "weights, alignment": Work(lambda: step(model, features, labels, alignment=True)),
        "logits": Work(lambda: step(model, features, labels, mixture="logits")),
        "loop over adapters": Work(lambda: loop.step(features, labels, gates)),
    }
    d_model = model.config.d_model
    positions = args.batch_size * features.shape[-1] // 2
    print(
        f"\n{args.size}, router after layer {router_layer} of {model.config.encoder_layers}, "
        f"{args.num_experts} experts, "
        f"batch {args.batch_size}, clips of {args.seconds} s"
    )
    return compare(
        works,
        repeats=args.repeats,
        unit="step",
        profiled=args.profile,
        products=[(positions, d_model, 4 * d_model), (labels.numel(), d_model, model.config.vocab_size)],
    )


def step(
    model: MoeWhisperForConditionalGeneration,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    mixture: str = "weights",
    alignment: bool = False,
) -> None:
    """Run forwards and backwards, the same as `MoeTrainer` under soft routing."""
    coefficients = RoutingArguments()
    expert_losses, trunk_states = model.expert_losses(features, labels) if alignment else (None, None)
    with model.override(mixture=mixture):
        output = model(features, labels=labels, trunk_states=trunk_states)
    usage = torch.full((model.config.num_experts,), 1 / model.config.num_experts)
    terms = routing_losses(output.gates, usage, expert_losses, coefficients.routing_alignment_tau)
    loss = output.loss + coefficients.load_balance_coef * terms["load_balance"].mean()
    if alignment:
        loss = loss + coefficients.routing_alignment_coef * terms["alignment"].mean()
    loss.backward()
    model.zero_grad()


class AdapterLoop:
    """The experts of a mixture as PEFT adapters of one model, run one after the other."""

    def __init__(self, base: DynamicContextWhisper, moe: MoeWhisperForConditionalGeneration):
        with tempfile.TemporaryDirectory() as folder:
            first, *others = moe.save_experts(folder)
            self.model = PeftModel.from_pretrained(base, first, adapter_name=first.name, is_trainable=True).train()
            for other in others:
                self.model.load_adapter(other, adapter_name=other.name, is_trainable=True)
        self.names = [first.name, *(other.name for other in others)]

    def step(self, features: torch.Tensor, labels: torch.Tensor, gates: torch.Tensor) -> float:
        """The gate-weighted loss; `gates (batch, experts)`."""
        total = 0.0
        for expert, name in enumerate(self.names):
            self.model.set_adapter(name)
            logits = self.model(input_features=features, decoder_input_ids=self.decoder_input(labels)).logits
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(
                -1
            )  # (batch,)
            loss = (gates[:, expert] * losses).sum() / labels.numel()
            loss.backward()
            total += float(loss.detach())
        self.model.zero_grad()
        return total

    def decoder_input(self, labels: torch.Tensor) -> torch.Tensor:
        start = labels.new_full((len(labels), 1), self.model.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1]], dim=1)


if __name__ == "__main__":
    main()
