"""A page of stretches of speech to listen to, where a linguist names what recurs, and confirms or rejects each clip.

What was decided stays in the browser until it is saved as `decisions.json`. The page needs no network, and its folder
may be moved.
"""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from hf_components.runtime import visible

DECISIONS = "decisions.json"
HOW = (
    "Listen to the clips. Name what you recognise, and mark each clip: \u2713 if it belongs to it, \u2717 if not. "
    f"The browser remembers this, and the button saves it as {DECISIONS}."
)
ENVIRONMENT = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters["visible"] = visible
PAGE = ENVIRONMENT.from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }
h2 { margin: 2em 0 .2em; border-top: 1px solid #ccc; padding-top: .6em }
h2 input { font: inherit; font-size: .7em; margin-left: 1em }
.units { font-family: monospace }
.bar { position: sticky; top: 0; background: #fff; padding: .4em 0; border-bottom: 1px solid #ccc }
table { border-collapse: collapse }
td { padding: .15em .5em; vertical-align: middle }
td.left { text-align: right }
td.left, td.right, .where { color: #555 }
td.verdict, td.motif { white-space: nowrap }
td.motif { font-weight: bold }
button { font: inherit }
button[aria-pressed=true] { background: #222; color: #fff; border-color: #222 }
tr.yes { background: #e7f5e7 }
tr.no { background: #f8e8e8 }
audio { height: 2em; width: 15em }
@media (max-width: 60em) {
  tr { display: block; padding: .4em 0; border-bottom: 1px solid #ddd }
  td { display: inline-block; padding: 0 .2em }
  td.units { display: inline }
  td.left::before { content: ""; display: block }
  td.motif { white-space: normal }
  .where { display: block }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ intro }}</p>
<p>{{ how }}</p>
<p class="bar"><button id="save">Save {{ decisions }}</button> <span id="count"></span></p>
{% for section in sections %}
<h2 id="{{ section.name }}">{{ section.name }} <span class="units">{{ section.units | join(" ") }}</span>
<input data-section="{{ loop.index0 }}" placeholder="name it" aria-label="name of {{ section.name }}"></h2>
<p>{{ section.about }}</p>
<table>
{% set outer = loop.index0 %}
{% for clip in section.clips %}
<tr data-section="{{ outer }}" data-clip="{{ loop.index0 }}">
<td class="verdict">
<button data-verdict="yes" title="belongs to it" aria-label="{{ loop.index }} belongs to it">&#10003;</button>
<button data-verdict="no" title="does not belong" aria-label="{{ loop.index }} does not belong">&#10007;</button></td>
<td><audio controls preload="none" src="{{ clip.file }}"></audio></td>
<td class="units left">{{ clip.left | join(" ") }}</td>
<td class="units motif">{{ clip.units | join(" ") }}</td>
<td class="units right">{{ clip.right | join(" ") }}</td>
<td class="where">{{ clip.source_file | visible }}, {{ "%.2f s to %.2f s" | format(clip.start, clip.end) }};
{{ clip.segment | visible }}, {{ clip.voice | visible }}
{%- if clip.cost is defined %}; cost {{ "%.3f" | format(clip.cost) }}{% endif %}</td>
</tr>
{% endfor %}
</table>
{% endfor %}
<script type="application/json" id="data">{{ data | tojson }}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const key = "decisions of " + location.pathname;
let kept = {};
try { kept = JSON.parse(localStorage.getItem(key)) || {}; } catch (error) { /* a private window keeps nothing */ }
const names = kept.names || {}, verdicts = kept.verdicts || {};
function show() {
  for (const row of document.querySelectorAll("tr[data-clip]")) {
    row.className = verdicts[row.dataset.section + "/" + row.dataset.clip] || "";
    for (const button of row.querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.dataset.verdict === row.className);
  }
  const given = Object.values(names).filter(Boolean).length;
  document.getElementById("count").textContent =
    given + " named, " + Object.keys(verdicts).length + " clips judged";
  try { localStorage.setItem(key, JSON.stringify({names, verdicts})); } catch (error) { /* see above */ }
}
for (const input of document.querySelectorAll("input[data-section]")) {
  input.value = names[input.dataset.section] || "";
  input.oninput = () => { names[input.dataset.section] = input.value.trim(); show(); };
}
for (const button of document.querySelectorAll("button[data-verdict]")) {
  const row = button.closest("tr"), id = row.dataset.section + "/" + row.dataset.clip;
  button.onclick = () => {
    if (verdicts[id] === button.dataset.verdict) delete verdicts[id]; else verdicts[id] = button.dataset.verdict;
    show();
  };
}
document.getElementById("save").onclick = () => {
  const motifs = data.motifs.map((motif, i) => ({
    motif: motif.motif, units: motif.units, name: names[i] || null,
    clips: motif.clips.map((clip, j) => ({...clip, verdict: verdicts[i + "/" + j] || null})),
  })).filter(motif => motif.name || motif.clips.some(clip => clip.verdict));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({units: data.units, motifs}, null, 1)]));
  link.download = "{{ decisions }}";
  link.click();
};
show();
</script>
</body>
</html>
""")
PLACE = ("segment", "source_file", "start", "end")  # of a clip, in the decisions


def write_page(file: Path, title: str, intro: str, sections: Sequence[dict], identity: dict) -> None:
    """Write the page.

    Args:
        sections: each with `name`, `units`, `about` and `clips`; a clip has `file` (relative to the page), `units` and
            those around it as `left` and `right`, `segment`, `source_file`, `start` and `end` (seconds in the
            recording), `voice`, and `cost` where hits are ranked.
        identity: identity of the units, see `hf_components.units.table`.
    """
    data = {
        "units": identity,
        "motifs": [
            {
                "motif": section["name"],
                "units": list(section["units"]),
                "clips": [{name: clip[name] for name in PLACE} for clip in section["clips"]],
            }
            for section in sections
        ],
    }
    page = PAGE.render(title=title, intro=intro, sections=sections, how=HOW, data=data, decisions=DECISIONS)
    file.write_text(page, encoding="utf-8")
