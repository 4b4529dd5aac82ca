"""Names that data give reach terminal, log, tables, plots and cards as visible text."""

import logging
import re

import numpy as np
import pytest
from rich.table import Table

from hf_components.publishing import cards
from hf_components.reporting import plots, show
from hf_components.runtime.errors import UserError
from hf_components.runtime.logs import VisibleFormatter, run_recipe

pytestmark = pytest.mark.unit
NAME = "a\x1b[31mb\rc\u202ed\u200be\x07\x9bf\u2028g\nERROR forged: line"
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2029\u2066-\u2069]")
SHOWN = r"a\x1b[31mb\rc\u202ed\u200be\x07\x9bf\u2028g\nERROR forged: line"


def formatted(message: str, *arguments) -> str:
    return VisibleFormatter("%(levelname)s %(message)s").format(
        logging.LogRecord("x", logging.WARNING, "x.py", 1, message, arguments, None)
    )


@pytest.mark.parametrize(
    "value", [NAME, UserError(NAME), [NAME], {"speaker": NAME}], ids=["text", "error", "list", "dict"]
)
def test_the_log(value):
    line = formatted("%s is left out", value)
    assert not HARMFUL.search(line) and "\n" not in line


def test_the_log_keeps_numbers_and_its_own_lines():
    assert formatted("%d of %.1f\nand %s", 3, 0.5, "é نمی\u200cخواهم") == "WARNING 3 of 0.5\nand é نمی\u200cخواهم"
    assert formatted("no arguments, 100 %") == "WARNING no arguments, 100 %"


def test_a_record_is_left_as_it_was():
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s", (NAME,), None)
    VisibleFormatter("%(message)s").format(record)
    assert record.getMessage() == NAME


def test_the_message_of_a_mistake(capsys):
    def main(argv):
        raise UserError(f"speaker {NAME} is there twice", details=f"{NAME}\nlast line")

    with pytest.raises(SystemExit):
        run_recipe(main)
    told = capsys.readouterr().err
    assert told.splitlines()[0] == f"error: speaker {SHOWN} is there twice"
    assert told.endswith("\nlast line\n") and not HARMFUL.search(told)


def test_tables_and_lines(capsys):
    table = Table(title="WER")
    table.add_column(NAME, no_wrap=True)
    table.add_row(NAME)
    table.add_row("é")
    show(table, f"speaker {NAME}")
    printed = capsys.readouterr().out
    assert not HARMFUL.search(printed) and r"\x1b" in printed and "é" in printed


@pytest.mark.parametrize("name", [NAME, "$a", "$\\frac{$", "a_b^c"])
def test_plots_draw_any_name(tmp_path, name):
    curve = {name: [1.0, 2.0]}
    plots.plot_curves(tmp_path / "curves.png", curve, "epoch", "loss", name)
    plots.plot_spectrograms(tmp_path / "spectrograms.png", {name: np.zeros(8000)}, name)
    assert len(list(tmp_path.iterdir())) == 2
    assert not HARMFUL.search(plots._label(name))


def test_cards(tmp_path, monkeypatch):
    (tmp_path / "card.md").write_text("| {{ group }} |\n{{ count }}\n")
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path)
    assert cards._visible(NAME) == SHOWN.replace(r"\n", "\n") and cards._visible(3) == 3
