"""A page of motifs with clips to listen to, each in its context. The folder is all that the page needs."""

from itertools import groupby
from pathlib import Path

import datasets
import jinja2
import numpy as np
import pyarrow

from hf_components.runtime import Progress, UserError
from hf_components.speech import SAMPLING_RATE, encode_flac, is_known, waveforms
from hf_components.units.motifs.bpe import Occurrences

PAGE = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Concordance of motifs</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }
h2 { margin: 2em 0 .2em; border-top: 1px solid #ccc; padding-top: .6em }
.units { font-family: monospace }
table { border-collapse: collapse }
td { padding: .15em .5em; vertical-align: middle }
td.left { text-align: right }
td.left, td.right, .where { color: #666 }
audio { height: 2em; width: 15em }
</style>
</head>
<body>
<h1>Concordance of motifs</h1>
<p>{{ motifs | length }} of {{ total }} motifs, the most frequent first, with at most {{ clips_per_motif }} occurrences
each, drawn at random. Counts are of all segments, those of {{ splits | join(" and ") }};
learn_motifs counts train alone. Each clip has up to {{ context_seconds }} s before and after the motif.</p>
{% for motif in motifs %}
<h2 id="{{ motif.name }}">{{ motif.name }} <span class="units">{{ motif.units | join(" ") }}</span></h2>
<p>{{ motif.count }} times in {{ motif.segments }} segments of {{ motif.recordings }}
recording{{ "s" if motif.recordings > 1 }} ({{ motif.voices }}),
{{ "%.2f" | format(motif.seconds.mean) }} s on average</p>
<table>
{% for clip in motif.clips %}
<tr>
<td><audio controls preload="none" src="{{ clip.file }}"></audio></td>
<td class="units left">{{ clip.left | join(" ") }}</td>
<td class="units"><b>{{ motif.units | join(" ") }}</b></td>
<td class="units right">{{ clip.right | join(" ") }}</td>
<td class="where">{{ clip.source_file }}, {{ "%.2f" | format(clip.start) }} s to {{ "%.2f" | format(clip.end) }} s;
{{ clip.segment }}, {{ clip.voice }}</td>
</tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
""")


def build_concordance(
    folder: Path,
    described: list[dict],
    rows: pyarrow.Table,
    found: Occurrences,
    corpus: datasets.Dataset,
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
        num_motifs: greatest number of motifs on the page.
        clips_per_motif: greatest number of clips per motif, drawn at random.
        context_seconds: seconds before and after a motif, within its segment.
    Returns:
        the number of motifs and clips, and the bytes of the clips.
    Raises:
        UserError: no motif occurs, or a segment is not in the corpus.
    """
    shown = [{**motif, "clips": []} for motif in described if motif["count"]][:num_motifs]
    if not shown:
        raise UserError(
            "none of the motifs occurs in these segments; lower --min_units, or learn motifs from more speech"
        )
    chosen = [(int(at), motif) for motif in shown for at in _draw(found, motif["id"], clips_per_motif, seed)]
    chosen.sort(key=lambda choice: choice[0])  # decodes each segment only once
    index = {name: i for i, name in enumerate(corpus["id"])}
    (folder / "clips").mkdir(exist_ok=True)
    size = 0
    for i, of_segment in Progress(
        groupby(chosen, key=lambda choice: found.row[choice[0]]), desc="clips", unit=" segments"
    ):
        (segment,) = rows.slice(i, 1).to_pylist()
        if segment["id"] not in index:
            raise UserError(f"segment {segment['id']} is not in the corpus; --corpus must be what the units are of")
        (waveform,) = waveforms([corpus[index[segment["id"]]]])
        for at, motif in of_segment:
            start = max(0.0, found.start[at] - context_seconds)
            end = found.end[at] + context_seconds
            clip = encode_flac(waveform[round(start * SAMPLING_RATE) : round(end * SAMPLING_RATE)])
            file = f"clips/{motif['name']}_{len(motif['clips'])}.flac"
            (folder / file).write_bytes(clip)
            size += len(clip)
            units = segment["deduplicated"]
            first = found.unit[at]
            earliest, latest = np.searchsorted(segment["start_times"], [start, end])
            motif["clips"].append(
                {
                    "file": file,
                    "left": units[earliest:first],
                    "right": units[first + motif["length"] : latest],
                    "source_file": segment["source_file"],
                    "segment": segment["id"],
                    "voice": segment["speaker_id"] if is_known(segment["speaker_id"]) else "speaker unknown",
                    "start": segment["start"] + found.start[at],
                    "end": segment["start"] + found.end[at],
                }
            )
    splits = sorted(set(rows["split"].to_pylist()), reverse=True)  # train before dev
    (folder / "index.html").write_text(
        PAGE.render(
            motifs=shown,
            total=len(described),
            clips_per_motif=clips_per_motif,
            context_seconds=context_seconds,
            splits=splits,
        ),
        encoding="utf-8",
    )
    return {"motifs": len(shown), "clips": len(chosen), "clip_bytes": size}


def _draw(found: Occurrences, motif: int, most: int, seed: int) -> np.ndarray:
    at = np.flatnonzero(found.motif == motif)
    return np.random.default_rng([seed, motif]).permutation(at)[:most]
