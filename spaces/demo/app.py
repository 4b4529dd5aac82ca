"""Demo of Underheard: a recording through routed experts, through discrete units and back, and a voice of your own.

RECOGNISERS="user/moe-whisper" UNITS="user/units" python app.py
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: recordings are private
import gradio as gr
import numpy as np
import pandas as pd
from checkpoints import IS_INSTALLED
from matplotlib.figure import Figure
from recognition import recognise
from recordings import SAMPLING_RATE, read_recording, spectrograms
from resynthesis import resynthesise
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from voice import MISSING, SENTENCES, before_and_after, learn

LOCAL = ("localhost", "127.0.0.1")
# Where checkpoints bring their own code, only those that were named at the start are loaded. With Underheard installed
# none of that code runs, and the user of this machine may choose any. Who comes from elsewhere never chooses.
TAKES_ANY_NAME = (
    IS_INSTALLED
    and not {"SPACE_ID", "GRADIO_SHARE"} & os.environ.keys()
    and os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1") in LOCAL
)
LARGEST_UPLOAD = "50mb"
KEPT = (3600, 24 * 3600)  # seconds: how often uploads are looked through, and after how long they are deleted


def own_hosts() -> list[str]:
    """Names under which the page answers. Another name is that of a stranger's page, pointed at this machine."""
    if "SPACE_ID" in os.environ:
        return ["*"]  # behind the proxy of the Hub
    given = os.environ.get("GRADIO_SERVER_NAME", "")
    return [*LOCAL, *([given] if given not in ("", "0.0.0.0", *LOCAL) else []), *os.environ.get("HOSTS", "").split()]


def refusal(error: ValueError) -> gr.Error:
    """What the user did wrong, as a message of the page that stays long enough to be read."""
    return gr.Error(str(error), duration=30, print_exception=False)


def show_experts(file: str | None, name: str) -> tuple[str, str, dict, dict]:
    """Transcript, remark, weights as bars, and the transcript of each expert."""
    try:
        waveform, remark = read_recording(file)
        heard = recognise(name, waveform)
    except ValueError as error:
        raise refusal(error) from error
    experts = [f"Expert {number}" for number in range(len(heard.by_expert))]
    is_routed = bool(heard.weights)
    shown = [f"{weight:.2f}" for weight in heard.weights] if is_routed else [""] * len(experts)
    bars = pd.DataFrame({"expert": experts if is_routed else [], "weight": np.round(heard.weights, 4)})
    rows = list(map(list, zip(range(len(experts)), shown, heard.by_expert, strict=True)))
    return (
        heard.transcript,
        f"{heard.remark} {remark}".strip(),
        gr.update(value=bars, visible=is_routed),
        gr.update(value=rows, visible=bool(experts)),
    )


def show_units(file: str | None, name: str) -> tuple[dict, str, str, Figure]:
    """Speech from units, remark, the units, and spectrograms."""
    try:
        waveform, remark = read_recording(file)
        result = resynthesise(name, waveform)
    except ValueError as error:
        raise refusal(error) from error
    panels = {"Recording": waveform}
    audio = None
    if result.speech is not None:
        panels["From its units"] = result.speech
        audio = SAMPLING_RATE, np.rint(np.clip(result.speech, -1, 1) * 32767).astype(np.int16)
    motifs = "  ".join("\u2011".join(map(str, motif)) for motif in result.motifs)  # hyphens without a line break
    return (
        gr.update(value=audio, visible=audio is not None),
        f"{result.remark} {remark}".strip(),
        motifs,
        spectrograms(panels),
    )


def sentences_of(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def ask_for(text: str, recorded: list[str]) -> str:
    """What to read next, as Markdown."""
    lines = sentences_of(text)
    if len(recorded) >= len(lines):
        return f"All {len(lines)} sentences are recorded. Press *Learn my voice*."
    return f"Sentence {len(recorded) + 1} of {len(lines)}. Read aloud:\n\n### {lines[len(recorded)]}"


def keep_sentence(file: str | None, text: str, recorded: list[str]) -> tuple[list[str], str, None]:
    """Keep the recording of the sentence that was asked for, and ask for the next."""
    try:
        if len(recorded) >= len(sentences_of(text)):
            raise ValueError("Every sentence is recorded already; press Learn my voice, or start again.")
        read_recording(file)
    except ValueError as error:
        raise refusal(error) from error
    recorded = [*recorded, file]
    return recorded, ask_for(text, recorded), None


def go_back(text: str, recorded: list[str]) -> tuple[list[str], str, None]:
    """Ask for the last sentence again."""
    recorded = recorded[:-1]
    return recorded, ask_for(text, recorded), None


def start_again(text: str) -> tuple[list[str], str, None]:
    return [], ask_for(text, []), None


def read_sentences(file: str) -> str:
    """The sentences of an uploaded text file."""
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(ValueError("The file is no text in UTF-8; save it as plain text.")) from error


def learn_my_voice(name: str, text: str, recorded: list[str], before) -> Iterator[tuple]:
    """First what is going on, then the voice of the recorded sentences and what was chosen.

    What is wrong with the sentences takes the place of the latter: it is to be read while they are recorded again.
    """
    yield before, f"Learning from {len(recorded)} sentences. On two CPU cores this takes one to five minutes."
    try:
        waveforms = [read_recording(file)[0] for file in recorded]
        learnt = learn(name, sentences_of(text)[: len(recorded)], waveforms)
    except ValueError as error:
        yield before, f"**Nothing was learned.** {error}"
        return
    yield learnt, learnt.remark


def compare_voice(file: str | None, learnt) -> tuple[str, str]:
    """The transcript of a recording before and after the voice."""
    try:
        if learnt is None:
            raise ValueError("Learn a voice first: record the sentences and press Learn my voice.")
        return before_and_after(learnt, read_recording(file)[0])
    except ValueError as error:
        raise refusal(error) from error


def build_voice_tab(recognisers: list[str]) -> None:
    """The tab in which a voice is learned. It stays in memory, and is gone when the page is closed."""
    if not IS_INSTALLED:
        gr.Markdown(MISSING)
        return
    recorded = gr.State([])
    learnt = gr.State(None)
    gr.Markdown(
        "Adapt a recogniser to one person. A voice is personal data: it stays in memory, and is gone when you close "
        "the page. Recordings are deleted from the computer that runs this page, after a day or when it stops."
    )
    with gr.Row():
        with gr.Column():
            gr.Markdown("### 1. Record a few sentences")
            name = checkpoint_field(recognisers)
            text = gr.Textbox("\n".join(SENTENCES), label="Sentences, one per line", lines=6)
            upload = gr.UploadButton("Take the sentences from a text file", file_types=[".txt"], size="sm")
            asked = gr.Markdown(ask_for("\n".join(SENTENCES), []))
            sentence = recording_field("This sentence", "microphone", "upload")
            with gr.Row():
                keep = gr.Button("Keep and go on")
                back = gr.Button("Go back")
                again = gr.Button("Start again")
        with gr.Column():
            gr.Markdown("### 2. Learn the voice")
            button = gr.Button("Learn my voice", variant="primary")
            remark = gr.Markdown("No voice is learned yet.", min_height=60)
            gr.Markdown("### 3. Compare")
            speech = recording_field("Now say something else", "microphone", "upload")
            listen = gr.Button("Transcribe before and after", variant="primary")
            with gr.Row():
                before = gr.Textbox(label="Before", lines=3)
                after = gr.Textbox(label="With my voice", lines=3)
    upload.upload(read_sentences, upload, text)
    text.change(start_again, text, [recorded, asked, sentence])
    again.click(start_again, text, [recorded, asked, sentence])
    back.click(go_back, [text, recorded], [recorded, asked, sentence], api_visibility="private")
    # Without progress, an error does not cover the field in which the sentence is to be recorded.
    keep.click(
        keep_sentence,
        [sentence, text, recorded],
        [recorded, asked, sentence],
        show_progress="hidden",
        api_visibility="private",
    )
    # One at a time, whoever asks: while a voice is learned, it changes the recogniser that the others hear with.
    one_recogniser = {"concurrency_id": "voices", "concurrency_limit": 1, "api_visibility": "private"}
    button.click(learn_my_voice, [name, text, recorded, learnt], [learnt, remark], **one_recogniser)
    listen.click(compare_voice, [speech, learnt], [before, after], **one_recogniser)


def checkpoint_field(names: list[str]) -> gr.Dropdown:
    return gr.Dropdown(
        names,
        value=names[0] if names else None,
        label="Checkpoint",
        allow_custom_value=TAKES_ANY_NAME,
        info="A folder, or a repository of the Hub as user/name." if TAKES_ANY_NAME else None,
    )


def recording_field(label: str, *sources: str) -> gr.Audio:
    """A recording; it has no button that shares it, since that would upload it."""
    return gr.Audio(sources=list(sources), type="filepath", label=label, buttons=["download"])


def build(recognisers: list[str], units: list[str]) -> gr.Blocks:
    """Build the page, with checkpoints to choose from."""
    with gr.Blocks(title="Underheard", delete_cache=KEPT) as page:
        gr.Markdown(
            "# Underheard\nSpeech that mainstream models get wrong. **Experts** writes down what was said, **Units** "
            "turns speech into discrete units and back, and **My voice** adapts a recogniser to you."
        )
        with gr.Tab("Experts"), gr.Row():
            with gr.Column(scale=2):
                recording = recording_field("Recording, 30 s at most", "upload", "microphone")
                name = checkpoint_field(recognisers)
                button = gr.Button("Transcribe", variant="primary")
            with gr.Column(scale=3):
                transcript = gr.Textbox(label="Transcript", lines=2, buttons=["copy"])
                remark = gr.Markdown()
                weights = gr.BarPlot(
                    x="expert",
                    y="weight",
                    y_lim=[0, 1],
                    height=240,
                    label="Weights of the router",
                    x_title=" ",
                    y_title="weight",
                    sort=None,
                    visible=False,
                )
                experts = gr.Dataframe(
                    headers=["expert", "weight", "alone, it would have written"],
                    wrap=True,
                    visible=False,
                    interactive=False,
                    label="Each expert alone",
                    column_widths=["25%", "25%", "50%"],
                )
            button.click(show_experts, [recording, name], [transcript, remark, weights, experts], api_name="recognise")
        with gr.Tab("Units"), gr.Row():
            with gr.Column(scale=2):
                recording = recording_field("Recording, 30 s at most", "upload", "microphone")
                name = checkpoint_field(units)
                button = gr.Button("To units and back", variant="primary")
            with gr.Column(scale=3):
                speech = gr.Audio(label="From its units", interactive=False, visible=False, buttons=["download"])
                remark = gr.Markdown()
                motifs = gr.Textbox(label="Units without repetitions, joined to motifs", lines=3, buttons=["copy"])
                figure = gr.Plot(show_label=False)
            button.click(show_units, [recording, name], [speech, remark, motifs, figure], api_name="resynthesise")
        with gr.Tab("My voice"):
            build_voice_tab(recognisers)
    return page


def prepare_proxies() -> None:
    """Keep requests to this machine from the proxy: Gradio asks its own page. Exit if the proxy cannot be used."""
    for name in ("NO_PROXY", "no_proxy"):  # httpx reads both
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost,127.0.0.1,::1")))
    names = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
    proxies = [os.environ.get(name, "") for name in (*names, *map(str.lower, names))]
    if any(proxy.startswith("socks") for proxy in proxies) and importlib.util.find_spec("socksio") is None:
        sys.exit("error: a SOCKS proxy needs the package socksio: pip install socksio, or unset ALL_PROXY")


if __name__ == "__main__":
    prepare_proxies()
    build(os.environ.get("RECOGNISERS", "").split(), os.environ.get("UNITS", "").split()).launch(
        max_file_size=LARGEST_UPLOAD,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=own_hosts())]},
    )
