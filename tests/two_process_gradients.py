"""Run by a test through `accelerate launch`: the gradients of one step over two processes, written by the first."""

import sys
from pathlib import Path

from accelerate import PartialState
from safetensors.torch import save_file
from tiny_speech import gradient_of_one_step

from hf_components.arguments import parse_arguments
from hf_components.training.experts import ExpertArguments

if __name__ == "__main__":
    parse_arguments(ExpertArguments, [])  # as every recipe begins
    folder = Path(sys.argv[1])
    for routing, mixture in ((None, "weights"), ("soft", "weights"), ("top_k", "logits")):
        for batch_size, accumulation in ((4, 1), (2, 2)):
            gradients = gradient_of_one_step(folder, batch_size, accumulation, routing=routing, mixture=mixture)
            assert PartialState().num_processes == 2
            if PartialState().is_main_process:
                save_file({name: gradient.contiguous() for name, gradient in gradients.items()},
                          folder / f"{routing}_{mixture}_{batch_size}x{accumulation}.safetensors")
