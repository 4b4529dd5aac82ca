"""Load, save and average checkpoints; import them from CTranslate2; export them to it and to ggml."""

from hf_components.checkpoints.ctranslate2_engine import ExportedWhisper, is_export
from hf_components.checkpoints.ctranslate2_export import export_whisper, transcribe_exported
from hf_components.checkpoints.ctranslate2_import import import_whisper
from hf_components.checkpoints.digests import digest_of_base, digest_of_model
from hf_components.checkpoints.ggml_engine import transcribe_ggml
from hf_components.checkpoints.ggml_export import export_ggml, find_ggml
from hf_components.checkpoints.language_models import load_llm, predict_llm
from hf_components.checkpoints.loading import (
    BEAMS,
    DAMAGED,
    base_model_id,
    choose_dtype,
    language_of,
    load_model,
    load_moe_whisper,
    load_processor,
    load_whisper,
    merge_adapter,
    prompt_language,
    read_config,
    save_processor,
    what_failed,
    writes,
)
from hf_components.checkpoints.saving import check_savable, save_whisper
from hf_components.checkpoints.soups import (
    Candidates,
    Soup,
    average_into,
    averaged,
    find_candidates,
    greedy_soup,
    lora_folder,
    save_average_adapter,
)
from hf_components.checkpoints.training_checkpoints import (
    AVERAGED_WEIGHTS,
    BASE,
    BASE_FORM,
    TRAINED_WEIGHTS,
    check_checkpoint,
    complete_checkpoints,
    damaged_checkpoint_named,
    delete_remains,
    last_complete_checkpoint,
    mark_complete,
)
from hf_components.checkpoints.voices import (
    CONTEXT,
    LORA,
    NO_CHANGE,
    VOTE,
    WAYS,
    WEIGHTS,
    Voice,
    find_voices,
    read_voice,
    require_same_base,
    save_voice,
    voice_folder,
)
