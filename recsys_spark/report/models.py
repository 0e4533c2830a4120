"""How the measured models were made: settings, what they were fitted on, seconds and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys_spark.report import shell, table
from recsys_spark.report.content import Fitted
from recsys_spark.report.table import Cell, Column

ABOUT = (
    "Seconds are of the whole step, a search included. Memory is that of the driver, its JVM and "
    "its worker processes together while the step ran, looked at once a second."
)


def section(fitted: Sequence[Fitted], css: Mapping[str, str]) -> str:
    """Empty where nothing is known of them. css: {label: colour class}."""
    if not fitted:
        return ""
    columns = [
        Column("Model", text=True),
        Column("Fitted on", text=True),
        Column("Seconds", low_first=True),
        Column("Peak memory, GB", low_first=True),
        Column("Chosen", text=True),
        Column("Settings", text=True),
    ]
    rows = [
        [
            Cell(model.label, model.label, (model.run_id,), css=css.get(model.label, "")),
            Cell(model.fit, model.fit),
            Cell(f"{model.seconds:,.1f}", model.seconds),
            Cell(f"{model.peak_bytes / 1e9:.2f}", model.peak_bytes)
            if model.peak_bytes
            else Cell("–", None),
            Cell(model.chosen, model.chosen),
            Cell(_settings(model), _settings(model), css="wide"),
        ]
        for model in fitted
    ]
    return f'<p class="about">{ABOUT}</p>{shell.card(table.table(columns, rows))}'


def _settings(model: Fitted) -> str:
    return ", ".join(f"{name} {value}" for name, value in model.settings)
