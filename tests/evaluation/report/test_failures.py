"""Where runs fail, side by side."""

import json
import re

from ega_jax.evaluation.report import write_comparison

from .test_comparison import runs  # noqa: F401


def test_failures_stand_side_by_side(runs, tmp_path):  # noqa: F811
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    section = page.partition("Where they fail, side by side")[2].partition("</section>")[0]
    details = [{line["name"]: line for line in map(json.loads, (run / "results_details.jsonl").open())} for run in runs]
    for name in ("Small", "Large"):
        part = section.partition(f"<b>{name}</b>")[2].partition("</details>")[0]
        ranks = [one[name]["ranks"] for one in details]
        assert [f"{run.name} {sum(rank != 1 for rank in one)}" for run, one in zip(runs, ranks, strict=True)] == (
            re.search(r"wrong of 30: ([^<]*)<", part)[1].split(" · ")
        )
        cards = re.findall(r"<article[^>]*>(.*?)</article>", part)
        outcomes = []
        for card in cards:
            query = int(re.search(rf"<p>{name} query (\d+)</p>", card)[1])
            own = [one[query] for one in ranks]
            outcomes.append([rank == 1 for rank in own])
            assert [kind == "gold" for kind in re.findall(r'<li class="(gold|miss)">', card)] == outcomes[-1]
            answers = re.findall(r"<li[^>]*>(.*?)</li>", card)
            right = re.search(r"<p>(.*?)</p>", answers[0])[1]
            for one, answer in zip(details, answers[1:], strict=True):
                shown = re.search(r"<p>(.*?)</p>", answer)
                first = one[name]["items"][str(one[name]["first"][query])]["text"]
                assert (shown[1] if shown else right) == first
        assert not any(all(outcome) for outcome in outcomes)
        disagreements = [any(outcome) for outcome in outcomes]
        assert disagreements == sorted(disagreements, reverse=True)
        assert any(disagreements)


def test_runs_that_were_asked_other_questions_share_no_failures(runs, tmp_path):  # noqa: F811
    path = runs[1] / "results.json"
    document = json.loads(path.read_text())
    document["subsets"][0]["items"] = "other"
    path.write_text(json.dumps(document))
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    section = page.partition("Where they fail, side by side")[2].partition("</section>")[0]
    assert "<b>Small</b>" not in section
    assert "<b>Large</b>" in section
