"""One HTML page to listen to: originals and resyntheses side by side. It works offline from a folder."""

from pathlib import Path

import jinja2

from hf_components.runtime import visible
from hf_components.units.resynthesis.summary import figure_rows, shown

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
  table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
  th, td { text-align: left; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
  td:last-child { min-width: 14rem; }
  td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
  .wide { overflow-x: auto; }
  section { border-top: 2px solid #ddd; margin-top: 2rem; }
  h2 { font-size: 1.1rem; overflow-wrap: anywhere; }
  .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
  figure { margin: 0; }
  audio, img { width: 100%; }
  .heard { font-style: italic; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: 0.9rem;
    overflow-wrap: anywhere; }
  dd { margin: 0; }
</style>
<h1>{{ title }}</h1>
<p>{{ results.sample.segments }} segments ({{ "%.0f" % results.sample.seconds }} s,
  {{ results.sample.voices }}), each spoken from its units alone. Intervals: 95 % bootstrap over segments.</p>
<div class="wide"><table>
  <thead><tr><th>figure<th>value<th>interval<th>good range<th>reached<th>what it is, and why this range</thead>
  {%- for row in figures %}
  <tr><td>{{ row.name }}<td class="number">{{ row.value }}<td class="number">{{ row.interval }}
    <td class="number">{{ row.good }}<td>{{ row.reached }}<td>{{ row.source }}
  {%- endfor %}
</table></div>
<dl>
  {%- for name, value in about.items() %}
  <dt>{{ name }}<dd>{{ value }}
  {%- endfor %}
</dl>
{%- for row in segments %}
<section>
  <h2 id="{{ row.index }}">{{ row.index }}: {{ row.id | visible }}</h2>
  <p>{{ "%.1f" % row.duration }} s, MCD {{ row.mcd | shown("dB") }}
    (shuffled {{ row.mcd_shuffled_units | shown("dB") }}), log-F0 RMSE {{ row.log_f0_rmse | shown }},
    voicing error {{ row.voicing_error | shown }}</p>
  {%- if row.text %}
  <p>{{ row.text }}</p>
  {%- endif %}
  <div class="pair">
    {%- for side in ("original", "resynthesis", "in_other_voice") if side in row %}
    <figure>
      <figcaption>{{ "in the voice of " ~ row.other_voice if side == "in_other_voice" else side }}</figcaption>
      <audio controls preload="none" src="{{ row[side] }}"></audio>
      {%- if "heard_" ~ side in row %}
      <p class="heard">{{ row["heard_" ~ side] or "(nothing heard)" }}</p>
      {%- endif %}
    </figure>
    {%- endfor %}
  </div>
  <img src="{{ row.spectrogram }}" alt="spectrograms of the original and of the resynthesis of {{ row.id | visible }}"
    loading="lazy">
</section>
{%- endfor %}
</html>
"""


def write_page(file: Path, title: str, about: dict[str, str], results: dict, segments: list[dict]) -> None:
    """Write the page beside the folders `audio` and `spectrograms` that its segments name.

    Args:
        about: facts about the evaluation, by name.
        results: result of `summarise`.
        segments: rows of `resynthesise`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"shown": shown, "visible": visible}
    file.write_text(
        environment.from_string(PAGE).render(
            title=title, about=about, results=results, figures=figure_rows(results), segments=segments
        ),
        encoding="utf-8",
    )
