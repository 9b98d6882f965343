"""The report of a run: one self-contained `report.html`."""

from ega_jax.evaluation.report.page import write_report as write_report
