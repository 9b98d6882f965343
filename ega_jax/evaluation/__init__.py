"""Evaluation: retrieval metrics, MMEB's tables and the report of a run.

    from ega_jax.evaluation import evaluate
    results = evaluate(encode, subsets, suite="mmeb")
    results.save(run_dir)

Nothing here needs jax: embeddings come from an `encode` function that is handed in. The report is
`ega_jax.evaluation.report.write_report`.
"""

from ega_jax.errors import NonFiniteEmbeddingError as NonFiniteEmbeddingError
from ega_jax.evaluation.mmeb import evaluate as evaluate
from ega_jax.evaluation.results import Results as Results
from ega_jax.evaluation.tables import markdown_table as markdown_table
from ega_jax.evaluation.tables import results_table as results_table
