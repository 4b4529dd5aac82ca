"""The folder of a voice: its file and its card."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.checkpoints import Voice, save_voice
from hf_components.publishing import hub_id, render_card, write_report
from hf_components.runtime import make_folder

CARD = "README.md"
TAGS = ["whisper", "speech-recognition", "personal-voice", "personal-data"]


def release_voice(voice: Voice, folder: Path, *, transcribed: bool) -> int:
    """Write the card and the voice; returns the bytes of the voice.

    The card does not name the person.
    """
    make_folder(folder)
    data = ModelCardData(
        library_name="peft" if voice.lora is not None and not voice.examples else None,
        pipeline_tag="automatic-speech-recognition",
        tags=TAGS,
        base_model=hub_id(voice.base),
    )
    shown = {
        "sentences": voice.sentences,
        "seconds_of_speech": voice.seconds_of_speech,
        "base": voice.base,
        "base_digest": voice.base_digest,
        "way": voice.way,
        "adapter": voice.lora is not None and voice.expert_weights is None and not voice.examples,
        "examples": len(voice.examples),
        "errors_before": voice.figures["errors_before"],
        "errors_after": voice.figures["errors_after"],
        "folds": voice.figures["folds"],
        "candidates": voice.figures["candidates"],
        "transcribed": transcribed,
    }
    (folder / CARD).write_text(render_card("voice.md", shown, data), encoding="utf-8")
    return save_voice(voice, folder)


def release_voices(folder: Path, run: Path, results: dict) -> dict:
    """Copy the voices of a run to `folder`, and write `README.md` and `results.json` with what voices gain.

    Args:
        folder: folder of the release.
        run: output folder of `run_voice_pipeline`.
        results: values for the card.
    Returns:
        WER before and after.
    """
    shutil.copytree(run / "voices" / "voices", folder / "voices", dirs_exist_ok=True)
    evaluation = results["evaluation"]
    data = ModelCardData(
        pipeline_tag="automatic-speech-recognition", tags=TAGS, base_model=hub_id(results["base_model"])
    )
    # The card does not name people.
    write_report(folder, [run / "evaluation" / "learning_curve.png"], results, "voices.md", data)
    return {name: evaluation[name] for name in ("wer_before", "wer_after")}
