"""The steps around the training: a manifest becomes a corpus, and the trained model a submission.

The recipes of the steps are handed in, since only a pipeline imports recipes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from hf_components.asr import can_be_packed
from hf_components.checkpoints import base_model_id
from hf_components.children.inputs import model_type_of
from hf_components.runtime import Pipeline, Step
from hf_components.speech import is_prepared, require_splits, summarise_corpus

logger = logging.getLogger(__name__)

ADVICE = (
    "a model is trained on some people and scored on others; raise --val_ratio, take --stratify_by none if no age "
    "has two people, or give a --val_manifest"
)


def prepare(pipeline: Pipeline, prepare_corpus: ModuleType, max_samples: int | None = None) -> None:
    """Prepare the manifest, divided by speaker, for all later steps; a prepared corpus is taken as it is."""
    corpus = data = pipeline.args.data
    pipeline.everywhere(language=pipeline.args.language)
    if not is_prepared(data):
        corpus = pipeline.run(
            prepare_corpus, "corpus", size="default", builder="jsonl_manifest", data_dir=data, max_samples=max_samples
        )
    pipeline.check(require_splits, data, str(corpus), {"train", "dev"}, ADVICE)
    pipeline.everywhere(corpus=corpus)


def transcribe_each(
    pipeline: Pipeline,
    transcribe: ModuleType,
    folders: Mapping[str, str],
    systems: Mapping[str, tuple[str | Path, str | None]],
) -> list[Path]:
    """Transcribe dev by several systems.

    Args:
        folders: folder of the step, by system.
        systems: model and audio context, by name.
    Returns:
        the files of their transcripts.
    """
    files = {name: pipeline.out / "transcripts" / f"{name}.jsonl" for name in systems}
    for name, (model, audio_context) in systems.items():
        pipeline.run(transcribe, folders[name], model=model, audio_context=audio_context, output_jsonl=files[name])
    return list(files.values())


def transcribe_test(pipeline: Pipeline, transcribe: ModuleType, model: Path) -> None:
    """Transcribe `--test_manifest`, if one is given, to `submission.jsonl`."""
    args = pipeline.args
    if not args.test_manifest:
        return
    pipeline.run(
        transcribe,
        "test",
        corpus=None,
        input_jsonl=args.test_manifest,
        fields=pipeline.passed_on.fields,
        audio_dirs=args.test_audio_dirs or pipeline.passed_on.audio_dirs,
        model=model,
        output_jsonl=pipeline.out / "submission.jsonl",
        submission_format=args.submission_format,
    )


def pack(pipeline: Pipeline, pack_submission: ModuleType, model: Path, *, has_own_head: bool = False, **flags) -> None:
    """Pack the zip that a competition runs, where its image can run such a model.

    Args:
        has_own_head: whether the model has a head that every zip can carry, whatever its base.
    """
    base = pipeline.args.model
    if has_own_head or can_be_packed(model_type_of(base)):
        pipeline.run(pack_submission, "submission", model=model, output=pipeline.out / "submission.zip", **flags)
    else:
        logger.warning("%s needs more than transformers, so that there will be no submission.zip", base)


def figures_of(pipeline: Pipeline, steps: Mapping[str, Step], folders: Mapping[str, str]) -> dict:
    """What both tracks report.

    Args:
        folders: folder of the step that transcribed, by system.
    """
    args = pipeline.args
    metrics = {name: step.metrics for name, step in steps.items()}
    return {
        "language": args.language,
        "base_model": base_model_id(args.model),
        "corpus": summarise_corpus(str(steps.get("corpus", args.data))),
        "training": metrics["finetuned"],
        "evaluation": metrics["evaluation"],
        "transcription": {name: metrics[folder] for name, folder in folders.items() if folder in metrics},
        "package": metrics.get("submission"),
    }


def seconds_of(steps: Mapping[str, Step], folders: Mapping[str, str]) -> float:
    """Time of the transcriptions, which are no stages."""
    return sum(steps[folder]["seconds"] for folder in folders.values() if folder in steps)
