"""transformers' own tests of Whisper, on our models. `test_whisper_stock_suite` runs this file in their repository."""

import transformers
from transformers.integrations import tensor_parallel

from hf_components.whisper.configuration_moe_whisper import MoeWhisperConfig
from hf_components.whisper.modeling_dynamic_whisper import DynamicContextWhisper, DynamicContextWhisperModel
from hf_components.whisper.modeling_moe_whisper import MoeWhisperForConditionalGeneration, MoeWhisperModel

# The repository's tests may be a little older than the package, and read these.
transformers.PreTrainedConfig.has_no_defaults_at_init = False
tensor_parallel._get_parameter_tp_plan = getattr(tensor_parallel, "_get_parameter_tp_plan", None)

from tests.models.whisper.test_modeling_whisper import WhisperModelTest, WhisperModelTester  # noqa: E402

WINDOW, SHORT = 60, 40  # mel frames of these tests' models and of clips that do not fill them


class ShortWhisper(DynamicContextWhisper):
    """Hears clips at their length."""

    def __init__(self, config):
        super().__init__(config)
        self.set_audio_context("dynamic", 2)


class MixtureTester(WhisperModelTester):
    fields = {}

    def get_config(self):
        stock = super().get_config().to_dict()
        own = {"num_experts": 3, "lora_rank": 2, "router_hidden_size": 4, **self.fields}
        return MoeWhisperConfig(**{k: v for k, v in stock.items() if k not in ("architectures", "model_type")}, **own)


class Plain(WhisperModelTest):
    frames = WINDOW
    all_model_classes = (DynamicContextWhisperModel, DynamicContextWhisper)
    pipeline_model_mapping = {}

    def setUp(self):
        super().setUp()
        self.model_tester.seq_length = self.frames


class Mixture(Plain):
    fields = {}
    all_model_classes = (MoeWhisperModel, MoeWhisperForConditionalGeneration)
    pipeline_model_mapping = {
        "automatic-speech-recognition": MoeWhisperForConditionalGeneration,
        "feature-extraction": MoeWhisperModel,
    }

    def setUp(self):
        super().setUp()
        self.model_tester = MixtureTester(self, seq_length=self.frames)
        self.model_tester.fields = self.fields


class TestStock(WhisperModelTest):
    pass


class TestPlainFull(Plain):
    pass


class TestPlainShort(Plain):
    frames = SHORT
    all_model_classes = (DynamicContextWhisperModel, ShortWhisper)


class TestMixtureFull(Mixture):
    fields = {"audio_context": "full"}


class TestMixtureShort(Mixture):
    frames = SHORT
    fields = {"audio_context": "dynamic", "min_audio_context": 2}


class TestMixtureLogits(Mixture):
    fields = {"audio_context": "full", "mixture": "logits", "routing": "top_k"}


del WhisperModelTest, Plain, Mixture  # pytest would run them too
