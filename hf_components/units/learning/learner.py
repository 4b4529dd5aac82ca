"""Learn the centroids of acoustic units from a corpus, in passes that survive a stop."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime import (
    Progress,
    UserError,
    damage_named,
    estimate_rest,
    gathered,
    make_folder,
    of_main,
    share_of,
    warn_of_full_disk,
    write_json,
)
from hf_components.units.learning.features import FeatureStream
from hf_components.units.learning.kmeans import MiniBatchKMeans, assign, kmeans_plus_plus, save_tensors
from hf_components.units.learning.plan import Batch, plan_steps
from hf_components.units.table import SECONDS_PER_UNIT

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 240.0  # with the current batch, a stop loses less than five minutes
SAMPLE = 20_000  # frames that k-means++ chooses from, at least
SAMPLE_PER_UNIT = 20  # and for each unit
FEATURES = "features"
TOLERANCE = 1e-3  # learning ends when a pass lowers the mean squared distance by less than this share


def learn_centroids(
    model: AcousticUnitsModel,
    rows: datasets.Dataset,
    folder: Path,
    *,
    passes: int = 10,
    seed: int = 42,
    update_seconds: float = 200.0,
    batch_seconds: float = 60.0,
    cache_gib: float = 20.0,
    num_workers: int = 0,
) -> MiniBatchKMeans:
    """Give the model centroids by k-means over all frames of a corpus; resumes a stopped run from `folder`.

    Each process computes the features of its share of every step. The sums of the batches are added in their order, so
    several processes get the same centroids as one, bit for bit on the same hardware.

    Args:
        rows: rows of the data contract, audio not decoded.
        passes: greatest number of passes over the corpus.
        update_seconds: seconds of speech per step of the centroids.
        batch_seconds: seconds of speech, with padding, that a process computes at once.
        cache_gib: features are kept in `folder` for the next pass if they take at most this many GiB.
        num_workers: processes that decode audio ahead of the model.
    Returns:
        the finished k-means, for its history.
    Raises:
        UserError: the corpus has fewer frames, or fewer different ones, than there are units.
    """
    state = PartialState()
    num_units = model.config.num_units
    durations = rows["duration"][:]
    features = _prepare_folder(model, durations, folder, cache_gib)
    stream = FeatureStream(model, rows, features, num_workers)
    steps = plan_steps(rows["id"][:], durations, seed, update_seconds, batch_seconds)
    sample = _sample(stream, steps, durations, folder / "sample.safetensors", passes=passes if features is None else 1)
    file = folder / "kmeans.safetensors"
    kmeans = MiniBatchKMeans.load(file) if file.exists() else MiniBatchKMeans(_chosen(sample, num_units, seed))
    state.wait_for_everyone()  # every process has read before the main process writes
    while not finished(kmeans, passes):
        _run_pass(kmeans, stream, steps, file, f"pass {len(kmeans.passes) + 1} of at most {passes}")
        _end_pass(kmeans, sample, seed, is_last=len(kmeans.passes) + 1 == passes)
        if state.is_main_process:
            kmeans.save(file)
    model.set_centroids(kmeans.centroids)
    return kmeans


def _prepare_folder(
    model: AcousticUnitsModel, durations: Sequence[float], folder: Path, cache_gib: float
) -> Path | None:
    """Make the folder of the run; return where features are kept for the next pass, or None if they are too large.

    Raises:
        UserError: there are fewer frames than units.
    """
    state = PartialState()
    num_units = model.config.num_units
    frames = int(sum(durations) / SECONDS_PER_UNIT)
    if frames < num_units:
        raise UserError(
            f"{num_units} units need as many frames of 20 ms, but the split to learn from has {frames}; "
            "lower --num_units or take more speech"
        )
    size = 4 * frames * model.config.feature_size
    features = folder / FEATURES if size <= cache_gib * 2**30 else None
    if state.is_main_process:
        make_folder(folder)
        if features is not None and not features.exists():
            logger.info("keeping features of %.1f hours on the disk: %.1f GiB", sum(durations) / 3600, size / 2**30)
            warn_of_full_disk("keeping features", folder, size, "lower --cache_gib to compute them in each pass")
    state.wait_for_everyone()
    return features


def _end_pass(kmeans: MiniBatchKMeans, sample: torch.Tensor, seed: int, *, is_last: bool) -> None:
    """End a pass; units that no frame is nearest to get a new place for the next one, if there is one."""
    dead = kmeans.end_pass()
    revive = 0 if is_last else int(dead.sum())
    if revive:
        living = kmeans.centroids[~dead]
        kmeans.centroids[dead] = _chosen(sample, revive, seed + len(kmeans.passes), living)
    kmeans.revived.append(revive)
    logger.info("pass %d: mean squared distance %.4f, %d units revived", len(kmeans.passes), kmeans.passes[-1], revive)


def _chosen(sample: torch.Tensor, count: int, seed: int, living: torch.Tensor | None = None) -> torch.Tensor:
    """Starts of k-means, chosen by one process: on different machines, rounding may change a random choice."""
    return of_main(lambda: kmeans_plus_plus(sample, count, seed, living))


def finished(kmeans: MiniBatchKMeans, passes: int) -> bool:
    """Whether all passes are done, or the last one changed hardly anything."""
    done = kmeans.passes
    return len(done) == passes or (len(done) > 1 and kmeans.revived[-1] == 0 and done[-1] > done[-2] * (1 - TOLERANCE))


def _run_pass(kmeans: MiniBatchKMeans, stream: FeatureStream, steps: list[list[Batch]], file: Path, name: str) -> None:
    """Do the remaining steps of this pass, and save the state every few minutes."""
    state = PartialState()
    saved = time.monotonic()
    rounds = list(_rounds(steps, kmeans.steps, kmeans.batches, state.num_processes))
    features = stream([batches[state.process_index] for batches, _ in rounds if state.process_index < len(batches)])
    with Progress(
        total=sum(map(len, steps)),
        initial=sum(map(len, steps)) - sum(len(batches) for batches, _ in rounds),
        desc=name,
        unit="batch",
        disable=not state.is_main_process,
    ) as progress:
        for batches, ends_step in rounds:
            mine = [assign(next(features), kmeans.centroids)] if state.process_index < len(batches) else []
            for assigned in gathered(mine):
                kmeans.add(assigned)
            if ends_step:
                kmeans.end_step()
            progress.update(len(batches))
            if state.is_main_process and time.monotonic() - saved > CHECKPOINT_SECONDS:
                kmeans.save(file)
                write_json(file.with_name("progress.json"), _progress(kmeans, stream, steps))
                saved = time.monotonic()


def _rounds(
    steps: list[list[Batch]], first_step: int, first_batch: int, processes: int
) -> Iterator[tuple[list[Batch], bool]]:
    """Batches to compute in parallel, one per process, and whether the step ends with them."""
    for number, step in enumerate(steps[first_step:]):
        rest = step[first_batch:] if number == 0 else step
        for start in range(0, len(rest), processes):
            yield rest[start : start + processes], start + processes >= len(rest)


def _progress(kmeans: MiniBatchKMeans, stream: FeatureStream, steps: list[list[Batch]]) -> dict:
    """Progress for people who look into the folder; resuming uses the saved k-means only."""
    done = [batch for step in steps[: kmeans.steps] for batch in step]
    if kmeans.steps < len(steps):
        done += steps[kmeans.steps][: kmeans.batches]
    return {
        "pass": len(kmeans.passes) + 1,
        "batches": len(done),
        "of": sum(map(len, steps)),
        "processed_files": stream.rows.select([row for batch in done for row in batch.rows])["id"][:],
    }


def _sample(
    stream: FeatureStream, steps: list[list[Batch]], durations: Sequence[float], file: Path, passes: int
) -> torch.Tensor:
    """Features `(frames, dim)` of the first clips of the plan, for k-means++; logs an estimate of the whole time.

    Args:
        passes: number of times that k-means will compute the features of the corpus.
    """
    state = PartialState()
    if file.exists():
        with damage_named(file, "delete it to draw it again"):
            sample = load_file(file)["features"]
        state.wait_for_everyone()
        return sample
    needed = max(SAMPLE, SAMPLE_PER_UNIT * stream.model.config.num_units) * SECONDS_PER_UNIT
    batches = []
    seconds = 0.0
    for batch in (batch for step in steps for batch in step):
        if seconds < needed:
            batches.append(batch)
            seconds += sum(durations[row] for row in batch.rows)
    mine = share_of(batches)
    start = time.perf_counter()
    found = [
        (batch.number, features.cpu())
        for batch, features in Progress(
            zip(mine, stream(mine), strict=True),
            total=len(mine),
            desc="first features",
            unit="batch",
            disable=not state.is_main_process,
        )
    ]
    sample = torch.cat([features for _, features in sorted(gathered(found), key=lambda pair: pair[0])])
    # One more time to write the units.
    estimate_rest(
        "learning and writing units, at most",
        file.parent,
        done=seconds,
        total=sum(durations) * (passes + 1),
        seconds=time.perf_counter() - start,
    )
    if state.is_main_process:
        save_tensors({"features": sample}, file)
    state.wait_for_everyone()
    return sample
