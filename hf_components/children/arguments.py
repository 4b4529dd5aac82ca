"""Flags of the pipelines that begin with a manifest and end with a submission."""

from dataclasses import dataclass

from hf_components.runtime import PipelineArguments, UserError, flag
from hf_components.speech import language_code


@dataclass
class ManifestPipelineArguments(PipelineArguments):
    data: str = flag("folder of a JSONL manifest and its audio, or a prepared corpus: folder or Hub id")
    model: str = flag(
        "base model, a Whisper or any other recogniser that can be trained: folder or Hub id",
        default="models/whisper-tiny.en",
    )
    test_manifest: str | None = flag("manifest to transcribe to <output_dir>/submission.jsonl", default=None)
    test_audio_dirs: list[str] | None = flag(
        "folders to search for its audio; default: --audio_dirs, or its own folder and sub-folders",
        default=None,
        needs="test_manifest",
    )
    submission_format: str | None = flag("submission_format.jsonl: gives the order of its lines", default=None)
    language: str = flag("language code of a multilingual model", default="en", read=language_code)

    def __post_init__(self):
        if self.submission_format and not self.test_manifest:
            raise UserError(
                f"--submission_format {self.submission_format} orders the transcripts of a --test_manifest; give "
                "that too"
            )
