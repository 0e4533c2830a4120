"""The page that compares runs, its sentences and its groups of items."""

from __future__ import annotations

import dataclasses
import re

import pytest

from recsys_spark.report import charts, comparison, deciles, lines, said, slices
from recsys_spark.report.content import (
    Change,
    Compared,
    Comparison,
    Counted,
    Evaluation,
    Lists,
    Paired,
)
from recsys_spark.report.results import Value
from tests.unit.test_report import NASTY, Checker, Example, Item, ranking, rating

NDCG = ("ndcg", 10)
LABELS = {"score_als-1": "als", "score_popularity-1": "popularity", "score_neumf-1": "neumf"}


def paired(
    model: str,
    value: float | None,
    half: float = 0.005,
    p: float = 2 / 1001,
    times: int = 1,
    **more: object,
) -> Paired:
    ends = (None, None) if value is None else (value - half, value + half)
    made = Paired(f"score_{model}-1", NDCG, "all", value, *ends, p, min(1.0, times * p))
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def compared(*differences: Paired, task: str = "ranking", **changes: object) -> Compared:
    values = tuple(
        dataclasses.replace(one, task=task) for one in ranking(als=0.2, popularity=0.1, neumf=0.05)
    )
    odd = {"score_als": {"nan_scores": 3}}
    evaluation = Evaluation(
        "ranking", "last_out", "leave last out", "test", 100, values, (10.0, 20.5, 40.0), odd
    )
    made = Compared(
        evaluation,
        task,
        NDCG,
        "score_popularity-1",
        "the strongest baseline in NDCG@10",
        1000,
        differences
        or (
            paired("als", 0.1, times=2),
            paired("neumf", -0.05, times=2),
            paired("neumf", -0.02, slice="activity:1"),
        ),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def lists() -> Lists:
    items = [Item(f"i{n}", f"Title {n}") for n in range(5)]
    example = Example(
        "u1",
        12,
        (Item("i9", NASTY, ("Drama",), 4.5),),
        (items[3],),
        {"popularity": tuple(items[:3]), "als": (items[3], items[0], items[1]), "neumf": ()},
    )
    runs = dict.fromkeys(LABELS, 10)
    return Lists(
        3,
        "score_popularity-1",
        LABELS,
        (Counted(5, 2, 3, runs), Counted(1, 10, 1, runs), Counted(0, 1, 0, {"score_als-1": 5})),
        (Change("score_als-1", both=4, gained=3, lost=2, neither=91, shared=1.25),),
        (example,),
        (example,),
    )


def page(*made: Compared, **changes: object) -> Comparison:
    whole = Comparison(
        "ml-1m",
        "1,000 events.",
        (("Split", "last_out"),),
        (("als", "Ranking", "score_als-1", "als-1", "ranking-1"),),
        made or (compared(),),
        lists(),
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def sentence(made: Compared, one: Paired) -> str:
    return "".join(said.verdict(made, one, LABELS))


def test_what_can_be_said_is_said_in_one_sentence() -> None:
    made = compared()
    assert (
        sentence(made, paired("als", 0.0286))
        == "als beats popularity by 0.0286 (0.0236 to 0.0336), p < 0.002"
    )
    assert (
        sentence(made, paired("als", -0.0286))
        == "popularity beats als by 0.0286 (0.0236 to 0.0336), p < 0.002"
    )
    assert (
        sentence(made, paired("als", 0.012, p=0.004, times=3))
        == "als beats popularity by 0.0120 (0.0070 to 0.0170), p = 0.012"
    )
    unsure = sentence(made, paired("als", -0.001, p=0.03, times=2))
    assert unsure == (
        "als and popularity cannot be told apart: als minus popularity is −0.0010 (−0.0060 to "
        "0.0040), p = 0.060"
    )
    assert sentence(made, paired("als", None)).endswith("nothing was measured on both")


def test_a_lower_error_wins() -> None:
    made = compared(primary=("rmse", 0))
    assert sentence(made, paired("als", -0.05, column=("rmse", 0))).startswith(
        "als beats popularity by 0.0500 (0.0450 to 0.0550)"
    )
    better, worse = (
        paired("als", -0.05, column=("rmse", 0)),
        paired("neumf", 0.01, column=("rmse", 0)),
    )
    assert said.main_differences(compared(worse, better, primary=("rmse", 0))) == [better, worse]


def test_a_p_value_that_no_replica_contradicts_is_a_bound_and_grows_with_the_comparisons() -> None:
    assert [said.probability(paired("als", 1.0, times=times), 1000) for times in (1, 2, 3)] == [
        "p < 0.002",
        "p < 0.004",
        "p < 0.006",
    ]
    assert said.probability(paired("als", 1.0, p=4 / 1001), 1000) == "p = 0.004"
    assert said.probability(paired("als", 1.0, p=1.0), 1000) == "p = 1"


def test_the_page_is_whole_and_says_who_beats_whom() -> None:
    document = comparison.render(
        page(
            compared(),
            dataclasses.replace(
                compared(
                    dataclasses.replace(paired("mf_bias", -0.05), column=("rmse", 0)),
                    task="rating",
                    primary=("rmse", 0),
                    reference="score_global_bias-1",
                ),
                evaluation=Evaluation(
                    "rating",
                    "random",
                    "random rows",
                    "test",
                    90,
                    rating(global_bias=0.9, mf_bias=0.85),
                ),
            ),
        )
    )
    found = Checker(document)
    text = "".join(found.text)
    assert (
        "als beats popularity by 0.1000 (0.0950 to 0.1050), p < 0.004." in text
        and "mf_bias beats global_bias by 0.0500" in text
    )
    assert (
        "corrected by Holm for 2 comparisons" in text
        and "3 places with a score that is not a number" in text
    )
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert ids == [
        "results",
        "differences",
        "cut-offs",
        "slices",
        "popularity",
        "changes",
        "examples",
        "method",
    ]
    assert [attrs["href"] for tag, attrs in found.tags if tag == "a"] == [
        f"#{name}" for name in ids
    ]
    assert not re.search(
        r"https?://|//[a-z]|@import|url\(|<link|<img|<iframe|\bsrc=|\bfetch\(", document
    )
    assert "<script>alert" not in document and NASTY in text
    assert document.count("<table>") == document.count('data-copy="md"')


def test_the_reference_is_marked_and_grey() -> None:
    document = comparison.render(page())
    rows = [row for row in re.findall(r"<tr>.*?</tr>", document) if 'data-v="popularity"' in row]
    assert (
        ">reference<" in rows[0] and 'class="text base"' in rows[0] and "loses to" not in document
    )


def test_sampled_candidates_are_labelled_and_have_the_full_ranking_beside_them() -> None:
    full = {
        "score_als-1": {
            NDCG: Value("score_als_all-1", "als", "ranking", "ndcg", 10, 0.0493, 0.045, 0.0534, 100)
        }
    }
    made = compared(task="sampled_ranking")
    document = comparison.render(
        page(
            dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, full=full)),
            lists=None,
        )
    )
    assert (
        "NDCG@10, sampled, leave last out" in document
        and "NDCG@10, full ranking" in document
        and "0.0493" in document
    )
    said_plainly = "".join(Checker(document).text)
    assert (
        '<span class="tag bad">sampled</span>' in document
        and "among a few drawn items" in said_plainly
    )
    unlabelled = said_plainly.replace("NDCG@10, sampled", "").replace("NDCG@10, full ranking", "")
    assert unlabelled.count("NDCG@10") == 1, "only what made the reference one"


def test_differences_carry_interval_and_p_value_into_a_copy() -> None:
    document = comparison.render(page())
    carried = r'data-v="0.1" data-low="0.095[0-9]*" data-high="0.105[0-9]*" data-p="0.00399[0-9]*"'
    cell = re.search(rf'<td class="best" {carried}>(.*?)</td>', document)
    assert cell and cell[1] == "+0.1000<small>0.0950 to 0.1050</small><small>p &lt; 0.004</small>"


def test_slices_show_the_paired_difference_and_no_p_value() -> None:
    document = comparison.render(page())
    section = document[
        document.index('<section id="slices">') : document.index('<section id="popularity">')
    ]
    assert (
        "users by activity" in section
        and "up to 10 events" in section
        and "−0.0200<" in section
        and "p = " not in section
    )
    assert (
        slices.kind_title("user.gender") == "users by gender"
        and slices.kind_title("item.genres") == "items by genres"
    )
    assert slices.kind_title("items") == "new and known items"


def test_many_slices_are_a_table_alone() -> None:
    made = compared()
    more = tuple(
        Value("score_als-1", "als", "ranking", "ndcg", 10, 0.1, 0.09, 0.11, 9, f"item.genres:g{n}")
        for n in range(9)
    )
    document = comparison.render(
        page(
            dataclasses.replace(
                made,
                evaluation=dataclasses.replace(
                    made.evaluation, values=made.evaluation.values + more
                ),
            )
        )
    )
    assert "<summary>9 slices</summary>" in document


def test_what_became_of_every_item_of_a_list() -> None:
    document = comparison.render(page())
    user = document[document.index('<details class="user"') :]
    als = user[user.index("</span>als</h4>") : user.index("</span>neumf</h4>")]
    assert re.findall(r'<em class="(?:new|move)">(.*?)</em>(.*?)</li>', als) == [
        ("new", "Title 3"),
        ("↓1", "Title 0"),
        ("↓1", "Title 1"),
    ]
    assert als.count("<li class=hit>") == 1 and "<span>gone</span> Title 2" in als
    popularity = user[user.index("</span>popularity</h4>") : user.index("</span>als</h4>")]
    assert "<em" not in popularity and "gone" not in popularity
    assert "held-out item found by als" in user and "no list" in user


def test_ten_groups_hold_a_tenth_of_the_items_or_of_the_events_each() -> None:
    # One item with 10 events, five with 2, ten with 1: 30 events of 16 items; a run shows the first
    # item alone.
    counted = [
        Counted(2, 5, 5, {"run": 0}),
        Counted(10, 1, 5, {"run": 4}),
        Counted(1, 10, 0, {"run": 0}),
    ]
    by_events = deciles.groups(counted, "events", 3)
    assert [group.items for group in by_events] == pytest.approx([1, 5, 10])
    assert [group.shares["run"] for group in by_events] == pytest.approx([1, 0, 0])
    assert [group.shares[deciles.TRAINING] for group in by_events] == pytest.approx([1 / 3] * 3)
    assert [(group.low, group.high) for group in by_events] == [(10, 10), (2, 2), (1, 1)]
    halves = deciles.groups(counted, "items", 2)
    # The first half: the item with 10, all with 2, and two of the ten with 1, which are alike.
    assert [group.items for group in halves] == pytest.approx([8, 8]) and (
        halves[0].low,
        halves[0].high,
    ) == (1, 10)
    assert halves[0].shares[deciles.TRAINING] == pytest.approx(22 / 30) and halves[0].shares[
        deciles.HELD_OUT
    ] == pytest.approx(1)
    for groups in (deciles.groups(counted, "items"), deciles.groups(counted, "events")):
        assert len(groups) == 10 and sum(
            group.shares[deciles.TRAINING] for group in groups
        ) == pytest.approx(1)


def test_items_without_a_training_event_are_in_no_group_but_counted() -> None:
    counted = [Counted(3, 4, 1, {"run": 6, "other": 2}), Counted(0, 2, 1, {"run": 2, "other": 0})]
    assert deciles.unseen(counted) == {"run": 0.25}
    assert sum(group.items for group in deciles.groups(counted, "items")) == pytest.approx(4)
    assert sum(group.shares["run"] for group in deciles.groups(counted, "items")) == pytest.approx(
        0.75
    )
    assert deciles.groups([Counted(0, 2, 1, {})], "items") == []


def test_a_line_has_a_band_and_a_chart_of_differences_a_zero() -> None:
    series = [
        charts.Series(
            "als", "m0", ((0.0, 0.1, 0.05, 0.15), (1.0, 0.2, 0.15, 0.25), (2.0, None, None, None))
        )
    ]
    drawn = lines.lines(series, ["1", "10", "20"])
    assert (
        drawn.count("<polygon") == 1
        and drawn.count('class="dot"') == 2
        and "als, 10: 0.2000 (0.1500–0.2500)" in drawn
    )
    assert lines.lines([], ["1"]) == "" and "20 %" in lines.lines(
        series, ["1", "10", "20"], percent=True
    )
    around = charts.bars([charts.Mark("a", "m0", 0.3, 0.2, 0.4, "+0.3")], around_zero=True)
    zero = re.search(r'class="zero" x1="([0-9.]+)%"', around)
    assert zero and 0 < float(zero[1]) < 15 and "<rect" not in around
