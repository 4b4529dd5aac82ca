"""Mistakes in what a pipeline is given, found before anything runs."""

from collections.abc import Iterable
from typing import Any

from hf_components.asr import check_same_ids, read_submission_format
from hf_components.checkpoints import read_config
from hf_components.children.arguments import ManifestPipelineArguments
from hf_components.runtime import UserError, parse_pairs, read_by_id
from hf_components.speech import is_prepared

CONFIGURED = ("val_ratio", "stratify_by")  # the configurations set these, so they are no mistake of the user


def check_inputs(args: ManifestPipelineArguments, passed_on: Any, of_manifests: Iterable[str]) -> None:
    """Look for mistakes that would else appear after hours of training.

    Args:
        passed_on: the flags that the pipeline passes on to its steps.
        of_manifests: those that divide a manifest, and mean nothing for a corpus that is prepared.
    Raises:
        UserError: one was found.
    """
    given = [name for name in of_manifests if name not in CONFIGURED and getattr(passed_on, name) is not None]
    if given and is_prepared(args.data):
        raise UserError(
            f"--{given[0]} is for a manifest, but {args.data} is prepared and divided already; leave it out"
        )
    if args.test_manifest:
        name = (parse_pairs("fields", passed_on.fields) or {}).get("utterance_id", "utterance_id")
        ids = [found for _, found, _ in read_by_id(args.test_manifest, name)]
        if args.submission_format:
            expected = read_submission_format(args.submission_format)
            check_same_ids(expected, args.submission_format, ids, args.test_manifest)


def model_type_of(model: str) -> str:
    """The type of a checkpoint; "whisper" if it cannot be read here, since the training says what is wrong with it."""
    try:
        return read_config(model)["model_type"]
    except UserError:
        return "whisper"
