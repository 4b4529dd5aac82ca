"""A page of motifs with clips to listen to, each in its context. The folder is all that the page needs."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow

from hf_components.runtime import Progress, UserError
from hf_components.units.motifs.bpe import Occurrences
from hf_components.units.motifs.clips import Clips
from hf_components.units.motifs.page import write_page


def build_concordance(
    folder: Path,
    described: list[dict],
    rows: pyarrow.Table,
    found: Occurrences,
    corpus: datasets.Dataset,
    identity: dict,
    *,
    num_motifs: int,
    clips_per_motif: int,
    context_seconds: float,
    seed: int,
) -> dict:
    """Write `index.html` and `clips/`.

    Args:
        described: motifs in the order of `list_motifs`; those that occur are shown.
        rows: segments, see `hf_components.units.table.UnitTable`.
        found: their motifs.
        corpus: corpus with the audio of the segments, by `id`.
        identity: identity of the units.
        num_motifs: greatest number of motifs on the page.
        clips_per_motif: greatest number of clips per motif, drawn at random.
        context_seconds: seconds before and after a motif, within its segment.
    Returns:
        the number of motifs and clips, and the bytes of the clips.
    Raises:
        UserError: no motif occurs, or a segment is not in the corpus.
    """
    shown = [
        {"name": motif["name"], "units": motif["units"], "about": about(motif), "id": motif["id"], "clips": []}
        for motif in described
        if motif["count"]
    ][:num_motifs]
    if not shown:
        raise UserError(
            "none of the motifs occurs in these segments; lower --min_units, or learn motifs from more speech"
        )
    chosen = [(int(at), motif) for motif in shown for at in _draw(found, motif["id"], clips_per_motif, seed)]
    chosen.sort(key=lambda choice: choice[0])  # decodes each segment only once
    clips = Clips(folder, corpus, context_seconds)
    for at, motif in Progress(chosen, desc="clips", unit="clip"):
        (segment,) = rows.slice(int(found.row[at]), 1).to_pylist()
        name = f"{motif['name']}_{len(motif['clips'])}"
        motif["clips"].append(clips.cut(segment, found.start[at], found.end[at], name))
    splits = sorted(set(rows["split"].to_pylist()), reverse=True)  # train before dev
    intro = (
        "A motif is a sequence of units that recurs, and a number is a unit: a sound of 20 ms or more. "
        f"Shown are {len(shown)} of {len(described)} motifs, the most frequent first, each with at most "
        f"{clips_per_motif} occurrences, drawn at random. Counts are of all segments, those of "
        f"{' and '.join(splits)}; learn_motifs counts train alone. Each clip has up to {context_seconds} s before "
        "and after the motif."
    )
    write_page(folder / "index.html", "Concordance of motifs", intro, shown, identity)
    return {"motifs": len(shown), "clips": len(chosen), "clip_bytes": clips.size}


def about(motif: dict) -> str:
    recordings = f"{motif['recordings']} recording{'s' if motif['recordings'] > 1 else ''}"
    return (
        f"{motif['count']} times in {motif['segments']} segments of {recordings} ({motif['voices']}), "
        f"{motif['seconds']['mean']:.2f} s on average"
    )


def _draw(found: Occurrences, motif: int, most: int, seed: int) -> np.ndarray:
    at = np.flatnonzero(found.motif == motif)
    return np.random.default_rng([seed, motif]).permutation(at)[:most]
