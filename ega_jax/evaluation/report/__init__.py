"""The report of a run, and of several side by side: self-contained HTML files."""

from ega_jax.evaluation.report.comparison import write_comparison as write_comparison
from ega_jax.evaluation.report.page import write_report as write_report
