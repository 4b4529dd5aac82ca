"""The whole of acoustic units: recordings, segments, units, motifs, a vocoder that speaks units, its figures, card.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_units_pipeline.py --config recipes/configs/run_units_pipeline/default.yaml \\
    --data data/recordings --model facebook/wav2vec2-large-xlsr-53 --output_dir runs/units
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that the steps are found as recipes.<step>

from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    PipelineArguments,
    UserError,
    all_flags,
    finish_pipeline,
    parse_arguments,
    passed_on_arguments,
    run_recipe,
    same_names,
    stage_options,
    stage_runner,
)
from hf_components.speech import describe_corpus, is_prepared, load_corpus
from hf_components.units import release_units
from hf_components.units.vocoder import AdversarialArguments
from recipes import (
    build_concordance,
    evaluate_vocoder,
    export_annotations,
    learn_motifs,
    learn_units,
    segment_audio,
    train_unit_vocoder,
)

CONFIGS = Path(__file__).parent / "configs"

FOLDERS = {
    "segments": segment_audio,
    "units": learn_units,
    "motifs": learn_motifs,
    "annotations": export_annotations,
    "concordance": build_concordance,
    "vocoder": train_unit_vocoder,
    "evaluation": evaluate_vocoder,
}
STAGES = {stage.__name__.rsplit(".", 1)[-1]: stage for stage in FOLDERS.values()}
FIGURES = ("snr", "mcd", "mcd_shuffled_units", "length_ratio", "log_f0_rmse", "bitrate", "cer", "cer_original")
PASSED_ON = {
    segment_audio: same_names(
        "silence_db", "min_silence", "min_segment", "max_segment", "padding", "detector", "val_ratio"
    ),
    learn_units: same_names("num_units", "layer"),
    learn_motifs: same_names("vocab_size"),
    train_unit_vocoder: same_names(
        "head",
        "speaker_embedding",
        *(flag for flag in all_flags(AdversarialArguments, without=("seed", "num_workers", "report_to"))),
    ),
    evaluate_vocoder: same_names("num_samples", "num_bootstrap", "recogniser"),
}


@dataclass
class Arguments(PipelineArguments):
    data: str = field(metadata={"help": "folder of recordings of any length, or a prepared corpus: folder or Hub id"})
    model: str = field(
        default="facebook/wav2vec2-large-xlsr-53",
        metadata={"help": "what units are made of: a wav2vec2, HuBERT, WavLM or w2v-BERT (folder or Hub id), or mfcc"},
    )
    linguists: bool = field(
        default=True,
        metadata={
            "help": "also write TextGrid and ELAN tiers of each recording, and a page of motifs with "
            "clips to listen to"
        },
    )


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    args, publishing, passed_on = parse_arguments(ARGUMENTS, argv, __doc__)
    out = Path(args.output_dir)
    quick = FOLDERS.values() if args.mode == "quick" else ()
    run = stage_runner(
        CONFIGS,
        quick,
        out,
        passed_on,
        PASSED_ON,
        stage_options(args.stage_options, STAGES | FOLDERS),
        resume=args.resume,
        log_file=args.log_file,
        seed=args.seed,
        plot=not args.no_plot,
        num_workers=args.num_workers,
    )
    corpus, segments, recordings = args.data, None, None
    if not is_prepared(args.data):
        segments, corpus, recordings = run(segment_audio, "segments", data_dir=args.data), out / "segments", args.data
    if missing := {"train", "dev"} - set(
        load_corpus(corpus)
    ):  # told before the hours that it takes to get to the vocoder
        raise UserError(
            f"{corpus} has no split {min(missing)!r}: units are learnt on train, the vocoder is judged by dev; "
            "give recordings of at least two speakers, or choose a larger --val_ratio"
        )
    units = run(learn_units, "units", corpus_dir=corpus, encoder=args.model)
    motifs = run(learn_motifs, "motifs", units_dir=out / "units")
    if args.linguists:
        learnt = {"units_dir": out / "units", "motifs_dir": out / "motifs"}
        run(export_annotations, "annotations", recordings_dir=recordings, **learnt)
        run(build_concordance, "concordance", corpus_dir=corpus, **learnt)
    vocoder = run(train_unit_vocoder, "vocoder", corpus_dir=corpus, units_dir=out / "units")
    evaluation = run(
        evaluate_vocoder, "evaluation", corpus_dir=corpus, units_dir=out / "units", vocoder=out / "vocoder" / "model"
    )

    results = {
        "mode": args.mode,
        "seed": args.seed,
        "license": publishing.model_license,
        "corpus": describe_corpus(corpus),
        "segments": segments,
        "units": units,
        "motifs": motifs,
        "vocoder": vocoder,
        "evaluation": evaluation,
        **{name: evaluation[name] for name in FIGURES},
    }
    results = finish_pipeline(
        out,
        results,
        release_units,
        config=(args, passed_on),
        resume=args.resume,
        inputs=[out / folder for folder in ("units", "motifs", "vocoder", "evaluation")],
    )
    push(publishing, out / "model")
    return results


if __name__ == "__main__":
    run_recipe(main)
