"""Every flag of every recipe has an effect, or says by `needs` what else it takes to have one, and warns."""

import dataclasses
import importlib
import re

import pytest
from paths import CONFIGS, ROOT

from hf_components.runtime.arguments import check_words
from hf_components.runtime.flags import unmet, ways_of
from recipes import (
    benchmark_asr,
    cluster_embeddings,
    evaluate_asr,
    evaluate_vocoder,
    export_ctranslate2,
    extract_embeddings,
    finetune_wav2vec2_lora,
    finetune_whisper,
    merge_moe_whisper,
    pack_submission,
    prepare_corpus,
    pretrain_experts,
    run_moe_pipeline,
    sweep_units,
    train_unit_vocoder,
    transcribe,
)

pytestmark = pytest.mark.unit

# Flags that have an effect whatever else is given. A new flag belongs here, or needs `needs`.
ALWAYS = re.findall(
    r"\w+",
    """
    accelerator_config activation_checkpointing adversarial_from_epoch algorithm alignments annotations audio
    audio_context audio_dir auto_find_batch_size average base_model base_share batch_size benchmark_percent bf16
    bootstrap_seed boundaries budget_seconds builder cache_gib candidates certainty checkpoint_every choose_model
    clips_per_motif compare_train_on compare_words concatenate control conv_dim conv_kernel conv_stride corpus
    crop_seconds data data_config_override data_dir data_percent data_seed dataloader_num_workers
    dataloader_pin_memory ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph debug
    debug_run decisions deepspeed detector dev_speakers dev_utterances disable_tqdm discriminator_lr
    discriminator_steps draws dry_run dtype ema_decay embedding_dim embedding_dir engine epochs eval_every_n_epochs
    eval_on_start eval_strategy evaluate_on_train expert_epochs expert_learning_rate expert_source experts_dir
    filter_transcripts finetuning first_layer fold folder folds force_restart format fp16 freeze_decoder
    freeze_encoder fsdp full_determinism full_model gold gradient_accumulation_steps gradient_checkpointing head
    hits_per_segment hub_id hypotheses_csv include_num_input_tokens_seen input_jsonl joint_epochs judges kit
    kl_to_base_coef kl_weight l2_to_start labels_dir last layers layout learning_rate license linguists
    load_balance_coef load_best_model_at_end log_file log_level log_level_replica log_on_each_node
    logging_nan_inf_filter logging_strategy loras lr lr_decay lr_scheduler_kwargs lr_scheduler_type max_duration
    max_folds max_grad_norm max_hits max_megabytes max_segment max_sentences max_steps max_tokens mel_masks
    merge_model method min_duration min_expert_usage_fraction min_gain min_segment min_silence min_units mixture mode
    model model_license models moe_model motifs_dir name neftune_noise_alpha no_fp16 no_lora no_plot noise
    num_attention_heads num_beams num_bootstrap num_hidden_layers num_motifs num_proc num_units num_workers only_folds
    optim optim_args optim_target_modules output output_dir output_jsonl output_wav padding passes patience
    per_device_eval_batch_size per_device_train_batch_size percent period_channels phone_labels plot predict_durations
    predictions prepared private push_to_hub query query_end query_start r1_weight rebase_output_dir recogniser_model
    recordings_dir reduce release remove_duration repo_id report_to resolution_channels resume router_dir
    router_hidden_size router_noise_std routing_alignment_coef routing_entropy_coef routing_temperature_end
    routing_temperature_min routing_temperature_start run_id sample_file samples_per_epoch sampling save_every
    save_every_n_epochs save_strategy scoring seed selection_share sentences shard_megabytes shared_epochs
    shared_expert shared_runs ship silences single_lora_learning_rate single_lora_model single_lora_wide_model
    soft_routing_epochs soup_model source speaker speaker_embedding speech_seed speed_factors stage_options
    submission_format target target_entropy teacher_model test_manifest test_utterances tf32 time_masks
    topk_routing_epochs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps track
    train_manifest train_on train_speakers truth unit_rate units units_dir unreadable_rows untranscribed
    update_seconds usage_momentum use_cache use_cpu use_f0 use_liger_kernel use_lora utterances_per_speaker
    validation_crops validation_fraction verify vocab_size vocoder_model voice voice_in voice_l2_to_start voice_layers
    voice_learning_rate voice_marks voice_rank voice_scales warmup_steps ways weight_decay worst
    """,
)
# Flags that have an effect in some recipes whatever else is given; in the others they have `needs`.
IN_SOME = re.findall(
    r"\w+",
    """
    adapter batch_seconds context_seconds early_stopping_patience expert experts_per_utterance freeze_shared_expert
    hidden_size language layer llm_model lora_model max_new_tokens max_samples min_audio_context num_train_epochs
    phone_tier pooling quantization selection_split split split_by split_seed val_manifest val_ratio
    """,
)
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


def kinds_of(recipe) -> tuple:
    """The dataclasses of a recipe's flags, without those that a pipeline passes on, which its steps look at."""
    kinds = recipe.ARGUMENTS if "ARGUMENTS" in vars(recipe) else (recipe.Arguments,)
    return tuple(kind for kind in kinds if kind.__name__ != "PassedOn")


def fields_of(recipe) -> dict[str, dataclasses.Field]:
    return {field.name: field for kind in kinds_of(recipe) for field in dataclasses.fields(kind) if field.init}


@pytest.mark.parametrize("name", RECIPES)
def test_every_flag_has_an_effect_or_says_what_it_needs(name):
    fields = fields_of(importlib.import_module(f"recipes.{name}"))
    unsaid = [flag for flag, field in fields.items() if "needs" not in field.metadata]
    assert sorted(set(unsaid) - set(ALWAYS) - set(IN_SOME)) == []
    for flag, field in fields.items():
        if "needs" in field.metadata:
            assert flag not in ALWAYS
            assert unmet(field.metadata["needs"], {}) is None  # no recipe is warned of a flag that it does not have


def test_what_is_needed_is_a_flag_of_some_recipe():
    fields = [fields_of(importlib.import_module(f"recipes.{name}")) for name in RECIPES]
    known = {flag for of_recipe in fields for flag in of_recipe}
    for of_recipe in fields:
        for field in of_recipe.values():
            assert {flag for way in ways_of(field.metadata.get("needs", ())) for flag in way} <= known, field.name


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_no_configuration_of_ours_has_a_key_without_effect(config, caplog):
    recipe = importlib.import_module(f"recipes.{config.parent.name}")
    kinds = recipe.ARGUMENTS if "ARGUMENTS" in vars(recipe) else (recipe.Arguments,)
    check_words(kinds, [f"--config={config}"], warn=True)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("recipe", "words", "warning"),
    [
        (
            finetune_whisper,
            "--noise_snr 5 20",
            "--noise_snr has no effect without --noise; leave it out, or change that",
        ),
        (finetune_whisper, "--lora-rank 16", "--lora_rank has no effect without --finetuning lora"),
        (finetune_whisper, "--corpus x --split-seed 1", "--split_seed has no effect without --train_manifest"),
        (finetune_whisper, "--corpus x --val-ratio 0.1", "--val_ratio has no effect without --train_manifest"),
        (finetune_whisper, "--corpus x --stratify-by none", "--stratify_by has no effect without --train_manifest"),
        (
            finetune_whisper,
            "--train_manifest x --val_manifest y --val_ratio 0.2",
            "--val_ratio has no effect with --val_manifest",
        ),
        (finetune_whisper, "--hub_model_id a/b", "--hub_model_id has no effect without --push_to_hub"),
        (
            finetune_whisper,
            "--time_mask_length 9 --output_dir o",
            "--time_mask_length has no effect without --time_masks",
        ),
        (
            finetune_whisper,
            "--consistency_coef 0.5 --output_dir o",
            "--consistency_coef has no effect without --time_masks or without --mel_masks",
        ),
        (finetune_whisper, "--concatenate_seconds 9 --output_dir o", "has no effect without --concatenate"),
        (finetune_whisper, "--trackio_space_id a/b --output_dir o", "no effect without --report_to trackio"),
        (finetune_whisper, "--num_train_epochs 3 --max_steps 5 --output_dir o", "without --max_steps -1"),
        (finetune_whisper, "--eval_split dev --output_dir o", "--eval_split has no effect without --eval_strategy"),
        (
            finetune_wav2vec2_lora,
            "--no_lora --lora_rank 4 --audio_dir x",
            "--lora_rank has no effect without --use_lora",
        ),
        (finetune_wav2vec2_lora, "--gold manifest --nbest 5", "--nbest has no effect without --gold llm"),
        (finetune_wav2vec2_lora, "--evaluate_on_train --eval_ratio 0.5", "has no effect with --evaluate_on_train"),
        (pretrain_experts, "--freeze_shared_expert", "has no effect without --labels_dir"),
        (pretrain_experts, "--router_layer 2 --router_dir x", "--router_layer has no effect with --router_dir"),
        (extract_embeddings, "--lora_model x", "--lora_model has no effect without --pooling gradient"),
        (extract_embeddings, "--pooling gradient --lora_model x --layer 2", "--layer has no effect without --pooling"),
        (run_moe_pipeline, "--expert_source error --pooling flatten", "without --expert_source embedding"),
        (prepare_corpus, "--split_seed 42", "without --builder jsonl_manifest or segmented_audio"),
        (export_ctranslate2, "--model x --min_audio_context 200", "without --audio_context dynamic"),
        (transcribe, "--corpus x --audio_dirs y", "--audio_dirs has no effect without --input_jsonl"),
        (evaluate_asr, "--predictions a --adapter b", "--adapter has no effect without --model"),
        (pack_submission, "--hours 2 --test_utterances 5", "--hours has no effect with --test_utterances"),
        (evaluate_asr, "--predictions a --sap_track 2", "--sap_track has no effect without --scoring sap"),
        (pack_submission, "--context_seconds 2", "--context_seconds has no effect without --kit sapc2-track2"),
        (merge_moe_whisper, "--expert 1", "--expert has no effect without --method expert"),
        (
            cluster_embeddings,
            "--reduce none --reduce_dim 5",
            "--reduce_dim has no effect without --reduce pca or umap",
        ),
        (cluster_embeddings, "--min_cluster_size 5", "has no effect without --algorithm hdbscan or auto"),
        (benchmark_asr, "--moe_model x --beta 0.3", "--beta has no effect without --combine beta or all"),
        (benchmark_asr, "--combine soft", "--combine has no effect without --moe_model"),
        (sweep_units, "--phone_tier words", "--phone_tier has no effect without --phone_labels"),
        (train_unit_vocoder, "--upsample_initial_channel 64 --head istft", "has no effect without --head hifigan"),
        (evaluate_vocoder, "--language de --recogniser_model none", "has no effect without --recogniser_model"),
    ],
)
def test_a_flag_without_effect_is_warned_of(recipe, words, warning, caplog):
    check_words(kinds_of(recipe), words.split(), is_complete=True, warn=True)
    assert len(caplog.messages) == 1 and warning in caplog.text


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (finetune_whisper, "--finetuning lora --lora-rank 16"),
        (finetune_whisper, "--noise gaussian --noise_snr 5 20"),
        (finetune_whisper, "--eval_steps 5 --output_dir o --use_cpu"),
        (pretrain_experts, "--lora_rank 4"),
        (finetune_wav2vec2_lora, "--lora_rank 4 --audio_dir x"),
        (benchmark_asr, "--moe_model x --combine beta --beta 0.3"),
        (benchmark_asr, "--moe_model x --combine all --beta 0.3"),
        (cluster_embeddings, "--reduce none"),
        (cluster_embeddings, "--algorithm hdbscan --min_cluster_size 5"),
        (transcribe, "--corpus x --split test"),
    ],
)
def test_a_flag_with_effect_is_not(recipe, words, caplog):
    check_words(kinds_of(recipe), words.split(), is_complete=True, warn=True)
    assert caplog.messages == []


@pytest.mark.parametrize("words", [["--do-train", "false"], ["--do_train=false"], ["--resume-from-checkpoint", "any"]])
def test_flags_of_transformers_that_do_nothing_here_are_refused(words):
    with pytest.raises(ValueError, match="unknown argument"):
        check_words(finetune_whisper.ARGUMENTS, words)
