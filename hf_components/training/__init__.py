"""The trainer, and its parts: arguments, batches, augmentation, LoRA, teachers, checkpoints."""

from hf_components.training.arguments import (
    UNSELECTED,
    CtcTrainingArguments,
    FinetuningTrainingArguments,
    SpeechTrainingArguments,
    TrainingRecipeArguments,
    warn_of_learning_rate,
)
from hf_components.training.augmentation import AugmentationArguments, Masks, draws_of, mix, spec_augment
from hf_components.training.averaging import Averages, load_recipient
from hf_components.training.data import (
    FULL_CONTEXT_FRAMES,
    WEIGHT,
    DurationBatchSampler,
    SpeechCollator,
    load_training_rows,
)
from hf_components.training.filtering import FilterArguments, filtered
from hf_components.training.finetuning import BASE_SHARE, Finetuned, FinetuningArguments, FinetuningSettings, finetune
from hf_components.training.fit import (
    GPU_SIZES,
    Batch,
    TrainingStep,
    WithoutValues,
    finetuned,
    known_config,
    largest_batches,
    loss_of_texts,
    new_model,
    predict_peak,
    ready,
    take_step,
    with_fake_tensors,
)
from hf_components.training.kl_to_base import KlToBaseArguments, KlToBaseTrainer
from hf_components.training.learnable import keep_learnable
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.training.recogniser import RecogniserArguments, load_to_train
from hf_components.training.report import outcome, plot_training, save_history
from hf_components.training.teacher import TaughtTrainer, Teacher
from hf_components.training.time_estimate import TimeEstimate
from hf_components.training.trainer import SpeechTrainer
