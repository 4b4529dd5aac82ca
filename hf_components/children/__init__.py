"""Children's Whisper: from a JSONL manifest to a scored model and a submission, for words and for sounds.

Both tracks of the competition share their flags, the checks of what is handed in, and the steps around the training.
"""

from hf_components.children.arguments import ManifestPipelineArguments
from hf_components.children.inputs import check_inputs, model_type_of
from hf_components.children.release import release_phonetic, release_recogniser
from hf_components.children.steps import figures_of, pack, prepare, seconds_of, transcribe_each, transcribe_test
