"""Model soups (Wortsman et al. 2022, arXiv 2203.05482): average several trained models or adapters into one."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hf_components.checkpoints.training_checkpoints import (
    BASE,
    BASE_FORM,
    TRAINED_WEIGHTS,
    check_checkpoint,
    complete_checkpoints,
    weights_file,
)
from hf_components.runtime import UserError, damage_named, first_few, leads_out, read_record
from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.adapters import Lora, load_adapter, save_adapter, stack_adapters

ADAPTER_CONFIG, INDEX = "adapter_config.json", "model.safetensors.index.json"
AGAIN = "copy the checkpoint again"
TRAINED_LORA = {"a": ".lora_A.default.weight", "b": ".lora_B.default.weight"}  # PEFT's names inside a model


@dataclass
class Soup:
    """The result of greedy selection.

    Args:
        members: indices of the candidates in the soup, in the order in which they were added.
        score: error of the soup; smaller is better.
        candidate_scores: error of each single candidate.
    """

    members: list[int]
    score: float
    candidate_scores: list[float]


@dataclass
class Candidates:
    """The candidates for a soup.

    Attributes:
        folders: name -> folder, in the order of training or as given.
        model: checkpoint that takes the averaged weights, or that the adapters adapt. For a training run it is the
            run's own, so that the result keeps the audio context and the language of the training.
        adapter: None if weights are averaged; else an adapter with the base model and the scaling of the candidates.
        base: checkpoint whose weights `model` must take before the adapters adapt it, because an adapter is merged
            into its own.
    """

    folders: dict[str, Path]
    model: str
    adapter: Path | None = None
    base: str | None = None

    def of(self, members: Sequence[int]) -> list[Path]:
        """The folders of the candidates with these indices."""
        folders = list(self.folders.values())
        return [folders[member] for member in members]


def greedy_soup(candidates: int, evaluate: Callable[[list[int]], float]) -> Soup:
    """Greedy soup (recipe 1 of the paper): from best to worst, a candidate joins if the soup does not get worse.

    So on the data of `evaluate` the soup is never worse than its best candidate, and its score is optimistic.

    Args:
        candidates: number of candidates.
        evaluate: function that returns the error of the average of the candidates with these indices.
    """
    alone = [evaluate([candidate]) for candidate in range(candidates)]
    best, *others = sorted(range(candidates), key=alone.__getitem__)
    members = [best]
    score = alone[best]
    for candidate in others:
        together = evaluate([*members, candidate])
        if together <= score:
            members = [*members, candidate]
            score = together
    return Soup(members, score, alone)


def find_candidates(paths: Sequence[str], last: int | None = None, base_model: str | None = None) -> Candidates:
    """The checkpoints of one training, or several finished models, or several PEFT adapters of one model.

    Args:
        paths: output folder of a training, with its `checkpoints`; or two or more folders of models, of adapters, or
            of trainings of a LoRA.
        last: number of newest checkpoints to take, at least 2; all by default.
        base_model: base model of the adapters; by default the one in their configuration.
    Raises:
        UserError: there are fewer than two candidates, or they do not belong together.
    """
    if len(paths) == 1:
        return _checkpoints_of_run(Path(paths[0]), last, base_model)
    if last is not None:
        raise UserError(f"--last chooses checkpoints of one training, got {len(paths)} candidates; leave it out")
    folders = {str(path): lora_folder(path) for path in paths}
    if len(folders) < len(paths):
        raise UserError(f"each candidate counts once, got {' '.join(paths)}; remove the repetition")
    are_adapters = [(folder / ADAPTER_CONFIG).exists() for folder in folders.values()]
    if all(are_adapters):
        bases = {_base_of(folder) for folder in folders.values()}
        if len(bases) > 1:
            names = ", ".join(sorted(map(str, bases)))
            raise UserError(f"adapters of different base models cannot be averaged: {names}")
        return Candidates(folders, base_model or bases.pop(), next(iter(folders.values())))
    for path, is_adapter in zip(folders, are_adapters, strict=True):
        if is_adapter or not (folders[path] / "config.json").exists():
            raise UserError(
                f"{path} holds {'an adapter' if is_adapter else 'no model'}; --candidates takes the output folder of "
                "one training, several models, or several adapters"
            )
    return Candidates(folders, next(iter(folders)))


@torch.no_grad()
def average_into(model: PreTrainedModel, folders: Sequence[Path]) -> None:
    """Set the parameters of `model` to the mean of checkpoints, reading one tensor at a time.

    The parameters of a LoRA are A and B, and the product of their means is not the mean of their products. It is close
    enough for checkpoints of one run; `save_average_adapter` is exact.

    Raises:
        UserError: a checkpoint holds other tensors than the first checkpoint or the model.
    """
    if isinstance(model, MoeWhisperForConditionalGeneration):
        model.unfold()  # its plain weights hold experts from before the average
    state = model.state_dict()
    with contextlib.ExitStack() as stack:
        opened = [
            {name: stack.enter_context(safe_open(file, "pt")) for name, file in _tensor_files(folder)}
            for folder in folders
        ]
        for folder, tensors in zip(folders, opened, strict=True):
            if unmatched := (tensors.keys() ^ opened[0].keys()) | (tensors.keys() - state.keys()):
                raise UserError(
                    f"{folder} and {folders[0]} do not hold the same weights of one model: {min(unmatched)} is in "
                    "only one of them, or not in the model"
                )
        for name in opened[0]:
            values = [tensors[name].get_slice(name) for tensors in opened]
            target = state[name]
            if sizes := [size for value in values if (size := tuple(value.get_shape())) != target.shape]:
                raise UserError(
                    f"{name} has shape {sizes[0]} in a candidate, but {tuple(target.shape)} in the model; all must "
                    "have the same size"
                )
            target.copy_(sum(value[...].float() for value in values) / len(values))


def lora_folder(path: str | Path) -> Path:
    """The PEFT adapter of a folder that a training of one LoRA wrote; any other folder as it is."""
    found = [Path(path) / name for name in ("adapter", "expert_0") if (Path(path) / name / ADAPTER_CONFIG).exists()]
    is_mixture = (Path(path) / "expert_1").exists()
    return found[0] if found and not is_mixture else Path(path)


def save_average_adapter(target: Path, folders: Sequence[Path], like: Path, rank: int | None = None) -> None:
    """Write one LoRA whose product is the mean of the products of several.

    Args:
        folders: PEFT adapters, or checkpoints from the training of one.
        like: adapter with the base model of all, and the scaling of those checkpoints.
        rank: rank of the result, which then is the nearest of that rank; None keeps the sum of the ranks, which is
            exact.
    Raises:
        UserError: an adapter is not a plain LoRA, or `rank` is greater than the sum of the ranks.
    """
    try:
        adapters = [
            load_adapter(folder) if (folder / ADAPTER_CONFIG).exists() else _trained_lora(folder, like)
            for folder in folders
        ]
    except SafetensorError as error:
        raise UserError(f"a candidate of {first_few(folders)} is damaged: {error}; {AGAIN}") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"{error}") from error
    stacked, most, scaling = stack_adapters(adapters)
    if rank is not None and rank > most * len(adapters):
        raise UserError(f"rank must be at most {most * len(adapters)}, the sum of all ranks, got {rank}")
    # (experts, rank, in) -> (experts rank, in); (experts, out, rank) -> (out, experts rank)
    lora = {name: (a.flatten(0, 1), b.transpose(0, 1).flatten(1) / len(adapters)) for name, (a, b) in stacked.items()}
    if rank is not None:
        lora = {name: nearest_of_rank(*factors, rank) for name, factors in lora.items()}
    save_adapter(target, lora, scaling=scaling, base_model=_base_of(like))


def nearest_of_rank(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The A and B of a smaller rank whose product is nearest to B A in the Frobenius norm (Eckart and Young 1936).

    Args:
        a: (rank, in).
        b: (out, rank).
    """
    left, upper = torch.linalg.qr(b.double())
    right, lower = torch.linalg.qr(a.double().T)  # B A = left (upper lower^T) right^T
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = values[:rank].sqrt()
    return (root[:, None] * (right @ v[:rank].T).T).to(a), (left @ u[:, :rank] * root).to(b)


@contextlib.contextmanager
def averaged(
    model: PreTrainedModel, candidates: Candidates, members: Sequence[int], rank: int | None = None
) -> Iterator[None]:
    """Give `model` the average of some candidates. Averaged weights stay in it afterwards, adapters are removed.

    Args:
        rank: rank of averaged adapters, see `save_average_adapter`.
    """
    folders = candidates.of(members)
    if candidates.adapter is None:
        average_into(model, folders)
        yield
        return
    with tempfile.TemporaryDirectory() as adapter:
        save_average_adapter(Path(adapter), folders, candidates.adapter, rank)
        peft = PeftModel.from_pretrained(model, adapter)  # changes the layers of `model` itself
        yield
        peft.unload()


def _checkpoints_of_run(run: Path, last: int | None, base_model: str | None) -> Candidates:
    if not (run / "model" / "config.json").exists():
        raise UserError(f"{run} holds no model; a single --candidates must be the output folder of a training")
    found = complete_checkpoints(run / "checkpoints")
    if len(found) < 2:
        raise UserError(
            f"a soup needs at least 2 complete checkpoints, {run / 'checkpoints'} holds {len(found)}; train more "
            "epochs with a larger --save_total_limit"
        )
    folders = {path.name: path for path in (found if last is None else found[-last:])}
    for path in folders.values():
        check_checkpoint(path)
    bases = {
        name: read_record(path / BASE, BASE_FORM, f"delete {path}, or choose another run")
        for name, path in folders.items()
    }
    newest = next(reversed(bases))
    if foreign := [name for name, base in bases.items() if base != bases[newest]]:
        names = f"{foreign[0]} and {newest}"
        raise UserError(f"the checkpoints in {run} adapt different base models: {names}; a soup needs one run")
    if (run / "adapter").exists():
        return Candidates(folders, str(run / "model"), run / "adapter", base_model or bases[newest]["base_model"])
    return Candidates(folders, str(run / "model"))


def _tensor_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every tensor of a checkpoint, which may have several files."""
    if (folder / INDEX).exists():
        index = read_record(folder / INDEX, {"weight_map": {str: str}}, AGAIN)
        for name, file in index["weight_map"].items():
            if leads_out(file):
                raise UserError(
                    f"{folder / INDEX} names {file!r}, which is not in its folder; copy the checkpoint again"
                )
            yield name, folder / file
        return
    file = weights_file(folder)
    if not file.exists():
        raise UserError(f"{folder} has no {TRAINED_WEIGHTS}; only weights in safetensors can be averaged")
    with damage_named(file, AGAIN), safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
    yield from ((name, file) for name in names)


def _trained_lora(checkpoint: Path, scaling_of: Path) -> tuple[Lora, int, float]:
    """The LoRA of a training's checkpoint, in the form of `load_adapter`."""
    _, rank, scaling = load_adapter(scaling_of)
    tensors = load_file(weights_file(checkpoint))
    names = {name.removesuffix(TRAINED_LORA["a"]) for name in tensors if name.endswith(TRAINED_LORA["a"])}
    lora = {name: (tensors[name + TRAINED_LORA["a"]], tensors[name + TRAINED_LORA["b"]]) for name in names}
    return lora, rank, scaling


def _base_of(adapter: Path) -> str:
    form = {"base_model_name_or_path": (str, None)}
    return read_record(adapter / ADAPTER_CONFIG, form, "copy the adapter again")["base_model_name_or_path"]
