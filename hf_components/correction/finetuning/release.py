"""Make the release folders of a wav2vec2 trained on corrected transcripts: weights, plots and the card."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.correction.finetuning.gold import CORRECTIONS, Sample, write_samples
from hf_components.correction.finetuning.improvement import is_silent, plot_improvement
from hf_components.publishing import evaluated_on, hub_id, write_report
from hf_components.runtime import write_json

ADAPTER, MODEL, LOGS = "lora_adapters", "model", "logs"
PLOT, LOSS = "wer_per_condition.png", "logs/loss.png"
RESULTS, SAMPLES, REJECTED = "evaluation_results.json", "samples.jsonl", "rejected.jsonl"


def publish_finetuned(
    folder: Path, prepared: Path, trained: Path, result: dict, samples: Sequence[Sample], plot: bool
) -> None:
    """Fill the output folder of `finetune_wav2vec2_lora`: figures, texts, weights with their cards, logs.

    Args:
        prepared: folder of the stages before training.
        trained: folder of the training stage.
        result: content of `evaluation_results.json`.
    """
    write_json(folder / RESULTS, result)
    write_samples(folder / SAMPLES, samples)
    shutil.copy(prepared / "corpus" / REJECTED, folder)
    if result["gold"]["source"] == "llm":
        shutil.copy(prepared / "gold" / CORRECTIONS, folder)
    if plot:
        plot_improvement(folder / PLOT, result)
    # The log folders hold TensorBoard's files of this run, and of the part before an interruption.
    for source, target in (
        (trained / LOGS, LOGS),
        (trained / "checkpoints" / "runs", f"{LOGS}/runs"),
        (trained / ADAPTER, ADAPTER),
        (trained / MODEL, MODEL),
    ):
        if source.exists():
            shutil.copytree(source, folder / target, dirs_exist_ok=True)
    for name in (ADAPTER, MODEL):
        if (folder / name).exists():
            write_card(folder / name, folder, {"evaluation": result, "llm": None, "compared": {}})


def release_wav2vec2(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model, its adapter and the plots of a run to `folder`; write `README.md` and `results.json`.

    Args:
        folder: folder of the release.
        run: output folder of `run_wav2vec2_pipeline`.
        results: values for the card.
    Returns:
        WER against the gold before and after.
    """
    trained = run / "finetuned"
    shutil.copytree(trained / MODEL, folder, dirs_exist_ok=True)
    if (trained / ADAPTER).exists():
        shutil.copytree(trained / ADAPTER, folder / ADAPTER, dirs_exist_ok=True)
    write_card(folder, trained, results)
    return {name: results["evaluation"][name]["wer"] for name in ("baseline", "finetuned")}


def write_card(folder: Path, trained: Path, results: dict) -> None:
    """Write the card of a model, or of an adapter, beside its weights.

    Args:
        folder: folder with the weights.
        trained: output folder of `finetune_wav2vec2_lora`.
        results: `evaluation` (its evaluation_results.json), `llm` (the same for the run on an LLM's corrections, or
            None) and `compared` (the same for other training data, by name).
    """
    is_adapter = (folder / "adapter_config.json").exists()
    is_lora = results["evaluation"]["method"] == "lora"
    base = results["evaluation"]["base_model"]
    card_data = ModelCardData(
        license=results["evaluation"]["license"],
        language="en",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["wav2vec2", "speech-recognition", "ctc", *(["lora"] if is_lora else [])],
        metrics=["wer", "cer"],
        base_model=hub_id(base),
        **figures_for_the_hub(results["evaluation"]),
    )
    write_report(
        folder,
        [trained / PLOT, trained / LOSS],
        results,
        "wav2vec2.md",
        card_data,
        is_adapter=is_adapter,
        is_silent=is_silent(results["evaluation"]),
    )


def figures_for_the_hub(evaluation: dict) -> dict:
    """Fields of the card's metadata for the error rate on the held-out recordings, if there are any."""
    if evaluation["evaluated_on"] != "held_out":
        return {}
    rates = evaluation["finetuned"]
    known = rates["wer_truth"] is not None
    title = f"WER against {'the truth' if known else evaluation['gold']['label']} (%)"
    return evaluated_on(
        evaluation["corpus"],
        "held_out",
        {("wer", title): 100 * rates["wer_truth" if known else "wer"]},
        name=f"{evaluation['base_model']} fine-tuned",
    )
