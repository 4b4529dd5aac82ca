"""Learn the voice of a person, or of several, from a handful of their sentences.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/personalise_whisper.py --config recipes/configs/personalise_whisper/default.yaml \\
    --model runs/moe/model --data recordings/anna --output_dir runs/anna

--data is a folder with sentences.txt and a recording of each sentence, a JSONL manifest, a speaker-JSON folder, or a
prepared corpus. Each person gets a voice: the small folder <output_dir>/voices/<person>. It holds what adapts the
model to this person: a LoRA, some of the sentences as context, both, or weights over the experts of a mixture. The
sentences decide which of these, or that the model stays as it is. Use a voice by
`Transcriber.from_pretrained(model, voice=...)`. A run that was killed gives the same voices when it is started again.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from rich.table import Table
from transformers import PreTrainedModel, ProcessorMixin

from dataset_scripts.people import people_of
from hf_components.asr import load_asr
from hf_components.checkpoints import language_of, read_voice
from hf_components.publishing import PublishVoiceArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    Progress,
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    place_for,
    run_recipe,
    run_stage,
    write_json,
)
from hf_components.speech import language_flag
from hf_components.voices import (
    Sentence,
    VoiceArguments,
    check_sentences,
    check_texts,
    guess_texts,
    learn_voice,
    release_voice,
)

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Arguments(RecipeArguments, SeedArguments):
    model: str = flag("Whisper or MoE-Whisper: folder or Hub id", aliases=["--base_model"])
    data: str = flag("recordings of one person or of several, with their texts; the formats are listed above")
    name: str | None = flag(
        "name of the person, if --data is a folder of one person; default: the name of the folder", default=None
    )
    max_sentences: int | None = flag("most sentences of each person to learn from; default: all", default=None, min=2)
    language: str | None = language_flag()
    untranscribed: bool = flag(
        "the recordings have no text: learn from those that the model transcribes alike several times", default=False
    )
    min_agreement: float = flag(
        "a recording is used if its transcripts agree at least so much; 1: they are all equal",
        default=0.7,
        min=0,
        max=1,
        needs="untranscribed",
    )


ARGUMENTS = (Arguments, VoiceArguments, PublishVoiceArguments)


def main(argv: list[str] | None = None) -> dict:
    args, voice_args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_stage(
        args.output_dir,
        lambda folder: produce(args, voice_args, folder),
        config=(args, voice_args),
        inputs=[args.model, args.data],
        resume=args.resume,
        alone=True,
    )
    show(table(result))
    learned = [voice["folder"] for voice in result["voices"].values() if voice["way"]]
    push(publishing, Path(args.output_dir, learned[0] if len(learned) == 1 else ""))
    return result


def produce(args: Arguments, voice_args: VoiceArguments, folder: Path) -> dict:
    people = people_of(args.data, args.name, folder / "corpus", with_texts=not args.untranscribed)
    model, processor = load_asr(args.model, args.language)
    report = {}
    for name in Progress(people, desc="learning voices", unit="voice", disable=not PartialState().is_main_process):
        sentences = people[name][: args.max_sentences]
        agreements = {}
        if args.untranscribed:
            sentences, agreements = agreed(args, model, processor, name, sentences)
        try:
            warnings = check_sentences(name, sentences)
        except UserError as error:
            if len(people) == 1:
                raise
            logger.warning("%s; no voice is learned", error)
            report[name] = {"way": None, "problem": str(error)}
            continue
        warnings += [] if args.untranscribed else check_texts(model, processor, name, sentences)
        for warning in warnings:
            logger.warning("%s", warning)
        place = folder / "voices" / place_for(name)
        if not (place / "voice.json").exists():  # else an interrupted run has finished it
            learned = learn_voice(model, processor, name, sentences, voice_args, args.seed)
            release_voice(learned.voice, place, transcribed=not args.untranscribed)
        voice = read_voice(place)
        report[name] = {
            "way": voice.way,
            "folder": f"voices/{place_for(name)}",
            "sentences": len(sentences),
            "seconds_of_speech": voice.seconds_of_speech,
            "bytes": sum(file.stat().st_size for file in place.glob("*.*") if file.suffix != ".md"),
            "chosen": voice.figures["chosen"],
            "warnings": warnings,
            "agreements": agreements,
        }
    write_json(folder / "results.json", {"voices": report})
    return {"voices": report}


def agreed(
    args: Arguments, model: PreTrainedModel, processor: ProcessorMixin, name: str, recordings: list[Sentence]
) -> tuple[list[Sentence], dict[str, float]]:
    """The recordings whose transcripts agree, with a text, and how far those of each recording agree."""
    guessed = guess_texts(model, processor, recordings, args.language or language_of(model))
    kept = [one.sentence for one in guessed if one.agreement >= args.min_agreement and one.sentence.text]
    logger.info("%s: the readings of %d of %d recordings agree", name, len(kept), len(guessed))
    return kept, {one.sentence.id: round(one.agreement, 3) for one in guessed}


def table(result: dict) -> Table:
    shown = Table(title="Voices", caption="gain: how much lower the loss of held-out sentences is, in nats per token")
    for heading in ("person", "sentences", "way", "gain", "kB"):
        shown.add_column(heading)
    for name, voice in result["voices"].items():
        if voice["way"] is None:
            shown.add_row(name, "", "none", "", "")
            continue
        gain = voice["chosen"].get("gain", 0.0)
        shown.add_row(name, str(voice["sentences"]), voice["way"], f"{gain:.3f}", f"{voice['bytes'] / 1000:.0f}")
    return shown


if __name__ == "__main__":
    run_recipe(main)
