"""Make the release folders of a wav2vec2 trained on corrected transcripts: weights, plots and the card."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.asr import Ctc, family_of, is_audio_llm, load_asr
from hf_components.checkpoints import merge_adapter, read_config
from hf_components.correction.finetuning.improvement import is_silent, plot_improvement
from hf_components.correction.finetuning.samples import Sample
from hf_components.publishing import evaluated_on, hub_id, write_report
from hf_components.runtime import read_record, run_stage, write_json, write_json_lines
from hf_components.training import plot_training

ADAPTER, MODEL, LOGS = "lora_adapters", "model", "logs"
TITLE = "Fine-tuning"  # of the curves
PLOT, LOSS = "wer_per_condition.png", "logs/loss.png"
NOT_RELEASED = "not_released"  # folder of a trained model that is not surely better than its base
FINETUNED, BASE = "finetuned", "base"  # what is released
RESULTS, SAMPLES, REJECTED = "evaluation_results.json", "samples.jsonl", "rejected.jsonl"


def publish_finetuned(
    folder: Path,
    corpus: Path,
    trained: Path,
    result: dict,
    samples: Sequence[Sample],
    corrections: Path | None,
    *,
    plot: bool,
    merge_into: str | None,
) -> None:
    """Fill the output folder of `finetune_wav2vec2_lora`: figures, texts, weights with their cards, logs.

    Args:
        corpus: folder of the prepared recordings.
        trained: folder of the training stage.
        result: content of `evaluation_results.json`.
        corrections: record of an LLM's replies; None without an LLM.
        merge_into: base model that the LoRA is merged into; None: no merged model is written.
    """
    write_json(folder / RESULTS, result)
    write_json_lines(folder / SAMPLES, map(dataclasses.asdict, samples))
    shutil.copy(corpus / REJECTED, folder)
    if corrections is not None:
        shutil.copy(corrections, folder)
    (folder / LOGS).mkdir(exist_ok=True)
    shutil.copy(trained / "history.json", folder / LOGS)
    # The log folders hold TensorBoard's files of this run, and of the part before an interruption.
    for source, target in (("checkpoints/runs", f"{LOGS}/runs"), ("adapter", ADAPTER), ("model", MODEL)):
        if (trained / source).exists():
            shutil.copytree(trained / source, folder / target, dirs_exist_ok=True)
    add_to_finetuned(folder, folder, plot=plot, merge_into=merge_into)


def add_to_finetuned(finished: Path, folder: Path, *, plot: bool, merge_into: str | None) -> None:
    """Write to `folder` what follows from the finished output folder of `finetune_wav2vec2_lora`.

    Args:
        plot: whether to draw the plots.
        merge_into: see `publish_finetuned`.
    """
    result = read_record(finished / RESULTS, dict, "the cards need it")
    if plot:
        draw_plots(finished, folder, result)
    if merge_into is not None:
        merge_lora(merge_into, finished / ADAPTER, folder / MODEL)
    plots = folder if plot else finished
    for name in (ADAPTER, MODEL):
        if (finished / name).exists() or (folder / name).exists():
            (folder / name).mkdir(exist_ok=True)
            write_card(folder / name, plots, {"evaluation": result, "llm": None, "compared": {}}, name == ADAPTER)


def draw_plots(finished: Path, folder: Path, result: dict) -> None:
    plot_improvement(folder / PLOT, result)
    (folder / LOGS).mkdir(exist_ok=True)
    plot_training(TITLE)(finished / LOGS, folder / LOGS)


def merge_lora(base: str, adapter: Path, folder: Path) -> None:
    """Write the base model with the merged LoRA, and its processor."""
    model, processor = load_asr(base)
    family_of(model).prepare_for_training(model)  # the same configuration as after training
    family_of(model).save(merge_adapter(model, str(adapter)), processor, folder)


def release_wav2vec2(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model, its adapter and the plots of a run to `folder`; write `README.md` and `results.json`.

    If the trained model is not to be shipped, the base is.

    Args:
        folder: folder of the release.
        run: output folder of `run_wav2vec2_pipeline`.
        results: values for the card.
    Returns:
        WER against the gold before and after.
    """
    trained = run / "finetuned"
    if results["shipped"] == FINETUNED:
        copy_trained(trained, folder)
    else:
        model, processor = load_asr(results["base"])
        family_of(model).save(model, processor, folder)
    write_card(folder, trained, results)
    return {name: results["evaluation"][name]["wer"] for name in ("baseline", "finetuned")}


def keep_unreleased(run: Path, trained: Path, resume: bool) -> None:
    """Keep a trained model that is not released in `not_released/` of the run."""

    def copy(folder: Path) -> dict:
        return copy_trained(trained, folder)

    run_stage(run / NOT_RELEASED, copy, config={}, inputs=[trained], resume=resume, alone=True)


def copy_trained(trained: Path, folder: Path) -> dict:
    shutil.copytree(trained / MODEL, folder, dirs_exist_ok=True)
    if (trained / ADAPTER).exists():
        shutil.copytree(trained / ADAPTER, folder / ADAPTER, dirs_exist_ok=True)
    return {}


def write_card(folder: Path, trained: Path, results: dict, is_adapter: bool = False) -> None:
    """Write the card of a model, or of an adapter, beside its weights.

    Args:
        folder: folder with the weights.
        trained: output folder of `finetune_wav2vec2_lora`.
        results: `evaluation` (its evaluation_results.json), `llm` (the same for the run on an LLM's corrections, or
            None), `compared` (the same for other training data, by name), and in a release `shipped` and `reason`.
        is_adapter: whether the weights are those of an adapter.
    """
    is_base = results.get("shipped") == BASE
    is_lora = results["evaluation"]["method"] == "lora" and not is_base
    base = results["evaluation"]["base_model"]
    family = results["evaluation"].get("family", Ctc.name).lower().replace(" ", "-")
    is_ctc = family == Ctc.name.lower()
    card_data = ModelCardData(
        license=results["evaluation"]["license"],
        language="en",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=[*(["wav2vec2"] if is_ctc else []), "speech-recognition", family, *(["lora"] if is_lora else [])],
        metrics=["wer", "cer"],
        base_model=hub_id(base),
        **figures_for_the_hub(results["evaluation"], is_base),
    )
    write_report(
        folder,
        [trained / PLOT, trained / LOSS],
        results,
        "wav2vec2.md",
        card_data,
        is_adapter=is_adapter,
        is_base=is_base,
        stock_lines=is_ctc if is_adapter else not is_audio_llm(read_config(str(folder))["model_type"]),
        is_silent=is_silent(results["evaluation"]),
    )


def figures_for_the_hub(evaluation: dict, is_base: bool) -> dict:
    """Fields of the card's metadata for the error rate on the held-out recordings, if there are any.

    Args:
        is_base: whether the card is one of the base, and not of the trained model.
    """
    if evaluation["evaluated_on"] != "held_out":
        return {}
    rates = evaluation["baseline" if is_base else "finetuned"]
    known = rates["wer_truth"] is not None
    title = f"WER against {'the truth' if known else evaluation['gold']['label']} (%)"
    return evaluated_on(
        evaluation["corpus"],
        "held_out",
        {("wer", title): 100 * rates["wer_truth" if known else "wer"]},
        name=evaluation["base_model"] if is_base else f"{evaluation['base_model']} fine-tuned",
    )
