"""Time several ways of doing the same work in turn, in one process, beside the machine's speed of matrix products.

The scripts in this folder share this file. A ratio compares two times of the same round, so a machine whose speed
drifts slows both; the median over rounds is reported. On a busy machine, trust the ratio of CPU times. GFLOP/s are per
second of CPU time.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# PyTorch counts the attention kernels of GPUs only.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *args, **kwargs: (
        sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, query, key, value, *_, **__: (
        sdpa_backward_flop_count(grad, query, key, value)
    ),
}
MATRIX_PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
}


@dataclass
class Work:
    """One way of doing the work.

    Args:
        run: does the work once.
        units: number of utterances, steps, ... in that work; times are per unit.
    """

    run: Callable[[], object]
    units: int = 1
    flops: float = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def compare(
    works: dict[str, Work], *, repeats: int, unit: str, products: list[tuple[int, int, int]], profiled: bool = False
) -> dict[str, dict[str, float]]:
    """Run all in turn, once to warm up and then `repeats` times, and print a table.

    Args:
        works: ways by name; ratios are to the first.
        unit: name of the unit of work.
        products: rows, inputs and outputs of linear layers, whose speed is measured as the limit of the machine.
        profiled: also print where the time goes.
    Returns:
        per name `seconds` (median per unit), `ratio` and `cpu_ratio` (median over rounds) and `flops` (in products,
        per unit).
    """
    for work in works.values():  # the warm-up
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            work.run()
        work.flops = counter.get_total_flops() / work.units
    for _ in range(repeats):
        for work in works.values():
            wall = time.perf_counter()
            cpu = time.process_time()
            work.run()
            work.wall.append((time.perf_counter() - wall) / work.units)
            work.cpu.append((time.process_time() - cpu) / work.units)

    print(
        machine(),
        *(
            f"a linear layer of {rows} x {size_in} -> {size_out} runs at "
            f"{product_speed(rows, size_in, size_out) / 1e9:.0f} GFLOP/s"
            for rows, size_in, size_out in products
        ),
        sep="\n",
    )
    width = max(map(len, works))
    print(
        f"\nper {unit}, median of {repeats} rounds (least to most)\n"
        f"{'':{width}}  {'time (ms)':>24}  {'ratio':>22}  {'of CPU times':>12}  {'GFLOP':>8}  "
        f"{'ratio':>6}  {'GFLOP/s':>7}"
    )
    first = next(iter(works.values()))
    results = {}
    for name, work in works.items():
        ratios = [own / other for own, other in zip(work.wall, first.wall, strict=True)]
        cpu_ratio = statistics.median(own / other for own, other in zip(work.cpu, first.cpu, strict=True))
        seconds = statistics.median(work.wall)
        print(
            f"{name:{width}}  {spread([1000 * value for value in work.wall], 1):>24}  {spread(ratios, 2):>22}  "
            f"{cpu_ratio:12.2f}  {work.flops / 1e9:8.2f}  {work.flops / first.flops:6.2f}  "
            f"{work.flops / statistics.median(work.cpu) / 1e9:7.1f}"
        )
        results[name] = {
            "seconds": seconds,
            "ratio": statistics.median(ratios),
            "cpu_ratio": cpu_ratio,
            "flops": work.flops,
        }
    if profiled:
        for name, work in works.items():
            print_profile(name, work.run)
    return results


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used, {platform.machine()}, "
        f"torch {torch.__version__}"
    )


@torch.no_grad()
def product_speed(rows: int, size_in: int, size_out: int) -> float:
    """Floating-point operations of one linear layer per second of CPU time, the best of ten runs."""
    inputs = torch.randn(rows, size_in)
    weight = torch.randn(size_out, size_in)
    times = []
    for _ in range(10):
        start = time.process_time()
        torch.nn.functional.linear(inputs, weight)
        times.append(time.process_time() - start)
    return 2 * rows * size_in * size_out / min(times)


def print_profile(name: str, run: Callable[[], object]) -> None:
    """Print where the time of one run goes: kinds of kernels, Python, and single kernels."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    kernels = profiler.key_averages()
    kinds = dict.fromkeys(("matrix products", "attention", "other kernels"), 0.0)
    for kernel in kernels:
        if kernel.key in MATRIX_PRODUCTS:
            kinds["matrix products"] += kernel.self_cpu_time_total / 1e6
        elif kernel.key.startswith("aten::_scaled_dot_product"):
            kinds["attention"] += kernel.self_cpu_time_total / 1e6
        elif kernel.key.startswith("aten::"):
            kinds["other kernels"] += kernel.self_cpu_time_total / 1e6
    kinds["Python and the rest"] = total - sum(kinds.values())
    print(f"\n{name}: " + ", ".join(f"{kind} {seconds / total:.0%}" for kind, seconds in kinds.items()))
    print(kernels.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=50))
