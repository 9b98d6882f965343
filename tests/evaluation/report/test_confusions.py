"""What is taken for what: a matrix of few labels, a list of frequent mistakes of many."""

import dataclasses
import json
import re

import numpy as np

from ega_jax.data.records import EvalSubset, Side, SubsetInfo
from ega_jax.evaluation import evaluate
from ega_jax.evaluation.report import write_report

from ..synthetic_subsets import TableEncoder
from .test_page import run  # noqa: F401


def confused(run, subsets, *, encode):  # noqa: F811
    evaluate(encode, subsets, suite="made up").save(run)
    return re.search(r"<h2>What is taken for what</h2>(.*?)</section>", write_report(run).read_text())[1]


def test_few_labels_make_a_matrix_and_many_a_list_of_mistakes(run):  # noqa: F811
    labels = [Side(name) for name in ("cat", "dog", "<owl>")]
    asked = [(0, 0), (0, 0), (0, 1), (1, 1), (2, 1), (2, 1), (2, 2)]  # right, chosen
    table = dict(zip(("cat", "dog", "<owl>"), np.eye(3), strict=True))
    queries = tuple(Side(f"query {number}") for number in range(len(asked)))
    table |= {query.text: np.eye(3)[chosen] for query, (_, chosen) in zip(queries, asked, strict=True)}
    pools = tuple(np.roll(np.arange(3, dtype=np.int32), -right) for right, _ in asked)
    few = EvalSubset(SubsetInfo("Few", "classification"), queries, tuple(labels), pools)
    section = confused(run, [few], encode=TableEncoder(table))
    assert "3 of 7 wrong" in section
    rows = {
        re.sub("<[^>]*>", "", row[0]): re.findall(r"<td[^>]*>([^<]*)</td>", row[1])
        for row in re.findall(r"<tr>(<th>[^<]*</th>)(<td.*?)</tr>", section)
    }
    order = [re.sub("<[^>]*>", "", name) for name in re.findall(r"<th><span>(.*?)</span></th>", section)]
    assert order == ["&lt;owl&gt;", "cat", "dog"]
    assert rows == {"&lt;owl&gt;": ["1", "·", "2", "3"], "cat": ["·", "2", "1", "3"], "dog": ["·", "·", "1", "1"]}

    many = dataclasses.replace(few, targets=(*labels, *(Side(f"other {number}") for number in range(20))))
    # Each other label is the right answer of one query, and the dog is chosen.
    more = tuple(Side(f"more {number}") for number in range(20))
    own = tuple(np.asarray([3 + number, 1], np.int32) for number in range(20))
    many = dataclasses.replace(many, queries=(*queries, *more), candidates=(*pools, *own))
    table |= dict.fromkeys((f"more {number}" for number in range(20)), np.eye(3)[1])
    table |= dict.fromkeys((f"other {number}" for number in range(20)), np.eye(3)[0])
    section = confused(run, [many], encode=TableEncoder(table))
    mistakes, _, magnets = section.partition("Chosen wrongly most often")
    assert re.findall(r"<b>(\d+)×</b>", mistakes) == ["2"], "owl for dog; cat for dog was chosen once"
    assert re.findall(r"<b>(\d+)×</b>", magnets) == ["23"]
    assert "dog" in magnets


def test_results_of_an_earlier_version_have_no_confusions(run):  # noqa: F811
    path = run / "results_details.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in ("gold", "first", "items"):
            del line[name]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(run).read_text()
    assert "What is taken for what" not in text
    assert "What the model retrieves" in text
