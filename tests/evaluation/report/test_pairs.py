"""The pairs that a loss amplified, on the page."""

import re

from ega_jax.evaluation.report import write_report

from .test_page import run, write_amplified  # noqa: F401


def test_amplified_pairs_are_shown_with_their_numbers(run):  # noqa: F811
    def shown():
        return re.search(r"<h2>What the loss amplified</h2>(.*?)</section>", write_report(run).read_text())[1]

    section = shown()
    assert "batches of steps 97 to 100" in section
    assert section.count("amplified 1.7×") == 3
    assert section.count("hardness +0.250 · ahead of the positive") == 3
    assert section.count('<article class="card pair') == 3
    assert "1 of 62" in section, "the last is not among the most amplified"
    assert section.count("<img") == 3 + 2 * 1
    write_amplified(run, [run.parent.parent / f"{index}.png" for index in range(3)], beta=0.0)
    assert "This run amplifies nothing" in shown()
    (run / "amplified.json").write_text('{"pairs": []}')
    assert "amplified.json is not of this version" in write_report(run).read_text()
