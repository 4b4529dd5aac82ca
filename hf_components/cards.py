"""Model cards: a Jinja template filled from results alone; a figure that is missing fails the rendering."""

from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData

from hf_components.errors import UserError

TEMPLATES = Path(__file__).parents[1] / "model_cards"


def percent(share: float) -> str:
    """0.2514 -> "25.1"."""
    return f"{100 * share:.1f}"


def interval(bounds: list[float] | None) -> str:
    """[0.2, 0.3] -> "20.0 to 30.0"; a dash where there is none."""
    return "-" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def render_card(template: str, results: dict, card_data: ModelCardData) -> str:
    """Fill `model_cards/<template>` from `results`, with `card_data` as YAML metadata on top.

    Raises:
        UserError: the template asks for something that the results do not have.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"percent": percent, "interval": interval}
    try:
        body = environment.get_template(template).render(results)
    except jinja2.UndefinedError as error:
        raise UserError(f"the card {template} needs a figure that the results lack: {error.message}") from error
    return f"---\n{card_data.to_yaml()}\n---\n\n{body}"
