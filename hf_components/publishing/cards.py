"""Model cards from Jinja templates. All figures come from results; a missing figure is an error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import CardData, EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from hf_components.reporting import interval, percent
from hf_components.runtime import UserError, visible

TEMPLATES = Path(__file__).parents[2] / "model_cards"
HERE = "path/to/this/folder"  # in usage examples of a card; replaced by the repository's id on the Hub
NOT_ON_THE_HUB = "audiofolder"  # type of a data set without Hub id, as in the Hub's own libraries
RECOGNITION = "automatic-speech-recognition"
NORMALISED = {"english": "after Whisper's `EnglishTextNormalizer`", "unicode": "in lower case without punctuation"}


def error_rates(wer: float, cer: float) -> dict[tuple[str, str], float]:
    """Error rates in the form for `evaluated_on`, the main one first."""
    return {("wer", "WER (%)"): 100 * wer, ("cer", "CER (%)"): 100 * cer}


def evaluated_on(
    corpus: dict[str, Any], split: str, figures: dict[tuple[str, str], float], *, name: str, task: str = RECOGNITION
) -> dict[str, Any]:
    """Fields of `ModelCardData` with the figures of a model (`model-index`), and the data set if it is on the Hub.

    Args:
        corpus: result of `summarise_corpus`.
        figures: (type, name) of each metric -> value.
        name: name of the model.
    """
    return {
        "model_name": name,
        "datasets": [corpus["hub_id"]] if corpus["hub_id"] else None,
        "eval_results": [
            EvalResult(
                task_type=task,
                dataset_type=corpus["hub_id"] or NOT_ON_THE_HUB,
                dataset_name=corpus["name"],
                dataset_split=split,
                dataset_revision=corpus["revision"],
                metric_type=metric,
                metric_name=title,
                metric_value=round(value, 2),
            )
            for (metric, title), value in figures.items()
        ],
    }


def eval_results_file(results: Sequence[EvalResult]) -> str | None:
    """The same figures for a file in `.eval_results/`, which the Hub shows on the data set's page.

    The task is the split. A task has only one figure, so the value is the first one, and the others are notes. None if
    the data set is not on the Hub, because its id is required.
    """
    if not results or results[0].dataset_type == NOT_ON_THE_HUB:
        return None
    first, *others = results
    notes = "; ".join([first.metric_name, *(f"{result.metric_name} {result.metric_value}" for result in others)])
    return yaml.safe_dump(
        eval_result_entries_to_yaml(
            [
                EvalResultEntry(
                    dataset_id=first.dataset_type,
                    dataset_revision=first.dataset_revision,
                    task_id=first.dataset_split,
                    value=first.metric_value,
                    notes=notes,
                )
            ]
        ),
        sort_keys=False,
    )


def render_card(template: str, results: dict, card_data: CardData) -> str:
    """Fill `model_cards/<template>` from `results`, with `card_data` as YAML metadata at the top.

    Raises:
        UserError: the template needs a figure that the results do not have.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "normalised": NORMALISED.__getitem__}
    try:
        body = environment.get_template(template).render(results)
    except jinja2.UndefinedError as error:
        raise UserError(f"the card {template} needs a figure that the results lack: {error.message}") from error
    return f"---\n{card_data.to_yaml()}\n---\n\n{body}"


def _visible(value: Any) -> Any:
    """What a template prints: names of groups and files cannot turn the direction of the card or hide in it."""
    return visible(value, keep="\n\t") if isinstance(value, str) else value
