"""`datasets` builders, one per source layout, and what they share."""

from dataset_scripts.jsonl_manifest import JsonlManifest
from dataset_scripts.segmented_audio import SegmentedAudio
from dataset_scripts.speaker_json import SpeakerJson

__all__ = ["JsonlManifest", "SegmentedAudio", "SpeakerJson"]
