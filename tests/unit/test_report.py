"""The page and the terminal table: whole, escaped, without a network, honest about who loses."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from recsys_spark.core.contracts import Run
from recsys_spark.report import charts, html, kinds, results, table, terminal
from recsys_spark.report.content import Evaluation, Example, Fitted, Item, Page, Paired, Training
from recsys_spark.report.results import Value

NASTY = "Amélie <script>alert('x')</script> \"七人の侍\" & Co. ${title}"


def value(
    model: str,
    metric: str,
    number: float | None,
    *,
    k: int = 10,
    slice: str = "all",
    task: str = "ranking",
    half: float = 0.01,
) -> Value:
    bounds = (None, None) if number is None else (number - half, number + half)
    return Value(f"score_{model}-1", model, task, metric, k, number, *bounds, 100, slice)


def ranking(**models: float) -> tuple[Value, ...]:
    made = []
    for model, ndcg in models.items():
        for k in (10, 20):
            made += [value(model, metric, ndcg, k=k) for metric in ("ndcg", "recall", "coverage")]
        made += [
            value(model, "ndcg", ndcg / level, slice=f"activity:{level}") for level in (1, 2, 3, 4)
        ]
    return tuple(made)


def rating(**models: float) -> tuple[Value, ...]:
    return tuple(
        value(model, metric, error, k=0, task="rating", half=0.001)
        for model, error in models.items()
        for metric in ("rmse", "mae")
    )


def page(**changes: object) -> Page:
    item = Item("i1", NASTY, ("Drama", "<i>"), 4.5)
    made = Page(
        title="ml-1m",
        data="1,000 events",
        facts=(("Machine", "2 cores"), ("Versions", "Python 3.11")),
        evaluations=(
            Evaluation(
                "ranking",
                "last_out",
                "leave_last_out",
                "test",
                100,
                ranking(popularity=0.1, als=0.2, neumf=0.05),
                (10.0, 20.5, 40.0),
                {"score_als": {"nan_scores": 3, "unknown_items": 0}},
            ),
            Evaluation(
                "rating", "random", "random", "test", 90, rating(global_bias=0.9, mf_bias=0.85)
            ),
        ),
        trainings=(
            Training(
                "neumf",
                "neumf",
                "ndcg@10",
                False,
                (
                    {"epoch": 0, "ndcg@10": 0.01, "train_bce": 0.7},
                    {"epoch": 1, "ndcg@10": 0.02, "train_bce": 0.5},
                ),
            ),
        ),
        examples=(
            Example(
                "<u1>",
                12,
                (item,),
                (Item("i2", "Held"),),
                {"als": (Item("i2", "Held"), item), "popularity": (item,), "neumf": ()},
            ),
        ),
        steps=(("als-1", "train_als", 2.5),),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class Checker(HTMLParser):
    """Every tag is closed in order; text, classes, addresses and ids are kept."""

    VOID = {"meta", "br", "link", "img", "input", "hr"}

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.text.append(data)

    def count(self, tag: str, css: str) -> int:
        return sum(
            name == tag and css in (attrs.get("class") or "").split() for name, attrs in self.tags
        )


def test_the_page_is_whole_and_names_every_model() -> None:
    document = html.render(page())
    found = Checker(document)
    text = "".join(found.text)
    for name in (
        "popularity",
        "als",
        "neumf",
        "global_bias",
        "mf_bias",
        "ml-1m",
        "2 cores",
        "leave_last_out",
        "Held",
    ):
        assert name in text
    assert "0.1900–0.2100" in text  # an interval in the table
    assert found.count("svg", "chart") == 1 + 2  # activity of the ranking, and two curves
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    linked = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    assert (
        linked
        == [f"#{name}" for name in ids]
        == ["#results", "#activity", "#training", "#examples", "#method"]
    )


def test_nothing_is_fetched() -> None:
    document = html.render(page())
    assert not re.search(
        r"https?://|//[a-z]|@import|url\(|<link|<img|<iframe|\bsrc=|\bfetch\(", document
    )
    assert "default-src 'none'" in document


def test_what_comes_from_the_data_is_escaped() -> None:
    found = Checker(html.render(page(title=NASTY, data=NASTY)))
    assert sum(tag == "script" for tag, _ in found.tags) == 1 and not any(
        tag == "i" for tag, _ in found.tags
    )
    text = "".join(found.text)
    # Title, heading, data, items: as they are, not as tags, entities or placeholders
    assert text.count(NASTY) >= 4
    assert "User <u1>" in text and "Drama, <i>" in text


def test_best_baseline_and_loser_are_marked() -> None:
    document = html.render(page())
    rows: dict[str, str] = {}
    # Of the first table that each model stands in
    for row in re.findall(r"<tr>.*?</tr>", document):
        rows.setdefault(re.findall(r'data-v="(\w*)"', row)[0] if "data-v" in row else "", row)
    assert (
        "loses to popularity" in rows["neumf"]
        and "loses" not in rows["als"] + rows["popularity"] + rows["mf_bias"]
    )
    assert ">baseline<" in rows["popularity"] and ">baseline<" in rows["global_bias"]
    assert rows["als"].count('class="best"') == 2 and 'class="best"' not in rows["popularity"]
    # Two cut-offs and the ratings: coverage has no best
    assert document.count('class="best"') == 3 * 2
    assert rows["mf_bias"].count('class="best"') == 2  # lower is better
    assert (
        "3 places with a score that is not a number" in document and "does not hold" not in document
    )


def test_the_held_out_item_is_marked_where_it_was_found() -> None:
    found = Checker(html.render(page()))
    assert found.count("li", "hit") == 2  # where it is told, and in the list of als
    assert "found by als" in "".join(found.text) and "no list" in "".join(found.text)


@pytest.mark.parametrize(
    ("corrected", "says"),
    [
        (
            {"popularity": 0.01, "neumf": 0.002},
            "It beats popularity by 0.1000 (0.0800 to 0.1200), p = 0.010, and all behind it.",
        ),
        (
            {"popularity": 0.3, "neumf": 0.002},
            "It cannot be told apart from popularity (p = 0.300). "
            "It beats neumf by 0.1500 (0.1300 to 0.1700), p < 0.002.",
        ),
        ({"popularity": None, "neumf": None}, None),  # no replicas were kept
    ],
)
def test_the_headline_speaks_by_paired_differences(
    corrected: dict[str, float | None], says: str | None
) -> None:
    """Overlapping intervals say nothing: als and popularity overlap in each of these."""
    values = ranking(als=0.2, popularity=0.1, neumf=0.05)
    leads = tuple(
        Paired(
            f"score_{model}-1",
            ("ndcg", 10),
            "all",
            difference,
            difference - 0.02,
            difference + 0.02,
            p=p and p / 2,
            corrected=p,
        )
        for (model, p), difference in zip(corrected.items(), (0.1, 0.15), strict=True)
        if p is not None
    )
    evaluation = Evaluation(
        "r", "s", "random", "test", 9, values, leads={"ranking": leads}, replicas=1000
    )
    text = " ".join("".join(Checker(html.render(page(evaluations=(evaluation,)))).text).split())
    assert "als ranks best, 2.0 times popularity." in text
    assert says is None or says in text
    assert ("It beats" in text) == (says is not None) and "overlaps" not in text


def test_the_headline_has_the_difference_from_the_baseline_too() -> None:
    values = ranking(als=0.2, neumf=0.1, popularity=0.05)
    leads = tuple(
        Paired(f"score_{model}-1", ("ndcg", 10), "all", by, by - 0.02, by + 0.02, 0.001, 0.002)
        for model, by in (("neumf", 0.1), ("popularity", 0.15))
    )
    level = {"ranking": {("ndcg", 10): frozenset({"score_als-1", "score_neumf-1"})}}
    evaluation = Evaluation(
        "r", "s", "random", "test", 9, values, leads={"ranking": leads}, level=level, replicas=1000
    )
    document = html.render(page(evaluations=(evaluation,)))
    text = " ".join("".join(Checker(document).text).split())
    assert (
        "It beats neumf by 0.1000 (0.0800 to 0.1200), p < 0.002, and popularity by 0.1500 "
        "(0.1300 to 0.1700), p < 0.002." in text
    )
    bold = re.findall(r'<th[^>]*><span class="key"></span>(\w+).*?<td([^>]*)>', document)
    assert [(name, "best" in cell) for name, cell in bold[:3]] == [
        ("als", True),
        ("neumf", True),  # which cannot be told apart
        ("popularity", False),
    ]
    assert "those that cannot be told apart from it" in text


def test_beside_each_model_stands_how_it_was_made() -> None:
    fitted = (
        Fitted(
            "als-1", "als", (("rank", "8"),), "3 trials on validation", "train+valid", 12.3, 10**9
        ),
        Fitted("pop-1", "<pop>", (), "as written", "train", 0.5),
    )
    document = html.render(page(fitted=fitted))
    text = " ".join("".join(Checker(document).text).split())
    assert "alsals-1train+valid12.31.003 trials on validationrank 8" in text
    assert "<pop>" not in document and "&lt;pop&gt;" in document
    assert 'id="models"' in document and 'id="models"' not in html.render(page())


@pytest.mark.parametrize(
    "changes",
    [
        {"trainings": (), "examples": (), "steps": ()},
        {
            "evaluations": (Evaluation("one", "s", "random", "test", 5, ranking(als=0.3)),),
            "trainings": (),
            "examples": (),
        },
        {"evaluations": (), "trainings": (Training("empty", "neumf", "ndcg@10", False, ()),)},
        {
            "evaluations": (
                Evaluation(
                    "none",
                    "s",
                    "random",
                    "test",
                    0,
                    (value("als", "ndcg", None), value("popularity", "ndcg", None)),
                ),
            )
        },
    ],
    ids=["no curves or examples", "one model", "no evaluation", "nothing measured"],
)
def test_missing_parts_leave_a_whole_page(changes: dict[str, object]) -> None:
    found = Checker(html.render(page(**changes)))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert ("training" in ids) == bool(
        changes.get("trainings", True) and changes.get("evaluations", True)
    )
    assert ("examples" in ids) == bool(changes.get("examples", True))


def test_two_runs_of_one_model_are_told_apart() -> None:
    first = ranking(als=0.2)
    second = tuple(dataclasses.replace(one, run_id="score_other-1", value=0.3) for one in first)
    made = results.table(first + second + ranking(popularity=0.1), "ranking")
    assert [row.label for row in made.rows] == [
        "als (score_other-1)",
        "als (score_als-1)",
        "popularity",
    ]


def test_order_and_best_follow_the_primary_metric() -> None:
    made = results.table(ranking(popularity=0.1, als=0.2, neumf=0.05), "ranking")
    assert [(row.label, row.loses) for row in made.rows] == [
        ("als", False),
        ("popularity", False),
        ("neumf", True),
    ]
    errors = results.table(rating(global_bias=0.9, mf_bias=0.95), "rating")
    assert [(row.label, row.loses) for row in errors.rows] == [
        ("global_bias", False),
        ("mf_bias", True),
    ]
    assert errors.best[("rmse", 0)] == "score_global_bias-1"


def test_numbers_are_written_for_readers() -> None:
    assert (
        results.number("ndcg", 0.04956) == "0.0496"
        and results.number("mean_popularity", 1234.5) == "1,234"
    )
    assert (
        results.interval(value("als", "coverage", 0.412)) == "40.2–42.2 %"
        and results.number("ndcg", None) == "–"
    )


def test_bars_start_at_zero_and_reach_their_values() -> None:
    marks = [
        charts.Mark("a", "m0", 0.2, 0.1, 0.4, "0.2"),
        charts.Mark("b", "m1", 0.4, None, None, "0.4"),
    ]
    drawn = charts.bars(marks)
    # Of the largest end of a whisker
    assert 'width="50.000%"' in drawn and 'width="100.000%"' in drawn
    assert 'x1="25.000%" x2="100.000%"' in drawn
    assert "circle" in charts.bars(marks, from_zero=False) and "<rect" not in charts.bars(
        marks, from_zero=False
    )
    assert charts.bars([]) == ""


def test_a_curve_reaches_over_its_epochs_and_rings_the_best() -> None:
    drawn = charts.curve([0.0, None, 1.0, float("nan")], "m0", best=2)
    assert drawn.count("dot") == 2 and drawn.count("ring") == 1
    assert (
        charts.curve([None], "m0") == ""
        and "<svg" in charts.curve([0.5], "m0")
        and "<svg" in charts.curve([0.5, 0.5], "m0")
    )


def run_of(step: str, stage: str, summary: dict) -> Run:
    return Run(
        run_id=f"{step}-1",
        pipeline="p",
        step=step,
        stage=stage,
        key="k",
        config={},
        upstream={},
        input_versions={},
        output_versions={"metrics": 3},
        run_dir=f"/out/{step}-1",
        code_version="0.1",
        seed=1,
        started_at=0.0,
        ended_at=2.0,
        summary=summary,
    )


def printed(show, *arguments: object) -> str:
    out = io.StringIO()
    show(Console(file=out, width=160), *arguments)
    return out.getvalue()


def test_the_terminal_ends_with_the_table_and_the_path_of_the_report() -> None:
    rows = [
        {
            "of_run_id": one.run_id,
            **{
                key: getattr(one, key)
                for key in ("model", "task", "metric", "k", "value", "low", "high", "n")
            },
        }
        for one in ranking(popularity=0.1, als=0.2, neumf=0.05)
        if one.slice == "all"
    ]
    evaluated = run_of(
        "ranking", "evaluate", {"split": "last_out", "part": "test", "users": 1234, "results": rows}
    )
    text = printed(terminal.results, [evaluated, run_of("report", "report", {})])
    assert (
        "1,234 users" in text
        and "0.1900–0.2100" in text
        and "loses to popularity" in text
        and "NDCG@10" in text
    )
    assert text.index("als") < text.index("popularity") and text.rstrip().endswith(
        "/out/report-1/report.html"
    )


def test_pages_and_tables_name_the_kind_of_query() -> None:
    whole = page()
    of_sessions = {"query_kind": "session"}
    evaluation = dataclasses.replace(whole.evaluations[0], **of_sessions)
    example = dataclasses.replace(whole.examples[0], **of_sessions)
    made = page(evaluations=(evaluation,), examples=(example,), trainings=())
    text = "".join(Checker(html.render(made)).text)
    assert "100 sessions" in text and "Example sessions" in text and "Session <u1>" in text
    assert "100 users" not in text and "Example users" not in text
    summary = {"split": "s", "part": "test", "users": 1204, "results": [], **of_sessions}
    rows = [
        {"of_run_id": "als-1", **{name: getattr(one, name) for name in results.FIELDS}}
        for one in ranking(popularity=0.1, als=0.2)
    ]
    said = printed(terminal.results, [run_of("r", "evaluate", summary | {"results": rows})])
    assert "1,204 sessions" in said
    assert kinds.worded("Users, a user's list", "playlist") == "Playlists, a playlist's list"
    assert kinds.worded("Users, reusers", "user") == "Users, reusers"


def test_steps_without_an_evaluation_say_what_they_did() -> None:
    text = printed(
        terminal.results,
        [run_of("als", "train_als", {"rank": 64, "ndcg": 0.04912345, "trials": [1, 2]})],
    )
    assert (
        "als-1" in text and "rank 64" in text and "ndcg 0.049123" in text and "trials" not in text
    )


def test_runs_are_listed_oldest_first() -> None:
    text = printed(
        terminal.runs,
        [
            run_of("b", "score", {}).model_copy(update={"ended_at": 9.0}),
            run_of("[red]a", "ingest", {}),
            run_of("c", "score", {}).model_copy(
                update={"ended_at": 10.0, "state": "failed", "problem": "the disk is full"}
            ),
        ],
    )
    assert text.index("[red]a-1") < text.index("b-1") < text.index("c-1")
    assert "2 completed runs, 1 failed" in text and "the disk is full" in text


def test_a_run_id_is_whole_on_a_narrow_terminal() -> None:
    run_id = "score_multi_vae_of_last_out-edabfb7c82"
    runs = [run_of("a", "score", {}).model_copy(update={"run_id": run_id})]
    console = Console(width=60, record=True)
    terminal.runs(console, runs)
    assert run_id in console.export_text()


def scored(run_id: str, model: str, ended_at: float = 1.0, **config: object) -> Run:
    made = run_of(run_id.removesuffix("-1"), "score", {})
    return made.model_copy(
        update={
            "config": {"model": model, "source": "last_out", "part": "test", **config},
            "ended_at": ended_at,
            "upstream": {"last_out": "last_out-1", model: f"{model}-1"},
        }
    )


def sampled_world() -> tuple[list[Run], tuple[Value, ...]]:
    """als and popularity among 99 drawn items; als over the whole catalogue too."""
    made = [
        dataclasses.replace(one, run_id=f"{one.model}_99-1", task="sampled_ranking")
        for one in ranking(als=0.43, popularity=0.25)
    ]
    whole = [
        {
            "of_run_id": "als_all-1",
            "model": "als",
            "task": "ranking",
            "metric": "ndcg",
            "k": 10,
            "value": 0.0493,
            "low": 0.045,
            "high": 0.0534,
            "n": 100,
        }
    ]
    runs = [
        scored("als_99-1", "als", candidates="negatives"),
        scored("popularity_99-1", "popularity", candidates="negatives"),
        scored("als_all-1", "als"),
        run_of("ranking", "evaluate", {"results": whole}),
    ]
    return runs, tuple(made)


def test_sampled_figures_say_so_and_stand_beside_the_full_ranking() -> None:
    runs, values = sampled_world()
    full = results.full_rankings(runs, {value.run_id for value in values})
    assert {run: value[("ndcg", 10)].value for run, value in full.items()} == {"als_99-1": 0.0493}
    document = html.render(
        page(
            evaluations=(Evaluation("k99", "s", "leave_last_out", "test", 100, values, full=full),),
            trainings=(),
        )
    )
    first = document.split("</tbody>")[0]  # at 10
    rows = {
        name: row
        for row in re.findall(r"<tr>.*?</tr>", first)
        for name in re.findall(r'data-v="(\w+)"', row)[:1]
    }
    heads = re.findall(r"<th[^>]*><button[^>]*>(.*?)</button>", document)
    assert heads[:4] == ["Model", "NDCG@10, sampled", "NDCG@10, full ranking", "Recall@10, sampled"]
    assert (
        rows["als"].index("0.4300") < rows["als"].index("0.0493") and "0.0450–0.0534" in rows["als"]
    )
    # Nobody measured it over the whole catalogue
    assert re.search(r'<td data-v="">–</td>', rows["popularity"])
    assert (
        '<span class="tag bad">sampled</span>' in document
        and "NDCG@10, sampled, leave_last_out" in document
    )
    assert "drawn items, not in the whole catalogue" in document


def test_another_part_or_model_is_no_full_ranking_of_this_one() -> None:
    runs, _ = sampled_world()
    other = runs[2].model_copy(update={"config": runs[2].config | {"part": "valid"}})
    assert results.full_rankings([*runs[:2], other, runs[3]], {"als_99-1"}) == {}
    assert results.full_rankings(runs, {"popularity_99-1"}) == {}


@pytest.mark.parametrize(("width", "columns"), [(160, 3), (58, 3), (56, 2), (10, 1)])
def test_a_narrow_terminal_gets_fewer_columns_not_nameless_models(width: int, columns: int) -> None:
    rows = [
        {"of_run_id": one.run_id, **{key: getattr(one, key) for key in results.FIELDS}}
        for one in ranking(a_model=0.1)
        if one.slice == "all"
    ]
    out = io.StringIO()
    terminal.results(
        Console(file=out, width=width),
        [
            run_of(
                "ranking", "evaluate", {"split": "s", "part": "test", "users": 9, "results": rows}
            )
        ],
    )
    assert width == 10 or ("a_model" in out.getvalue() and out.getvalue().count("@10") == columns)


def test_the_terminal_says_sampled_too() -> None:
    runs, values = sampled_world()
    rows = [
        {"of_run_id": one.run_id, **{key: getattr(one, key) for key in results.FIELDS}}
        for one in values
        if one.slice == "all"
    ]
    text = printed(
        terminal.results,
        [
            *runs,
            run_of(
                "k99",
                "evaluate",
                {"split": "last_out", "part": "test", "users": 9, "results": rows},
            ),
        ],
    )
    assert (
        "sampled" in text
        and "full ranking" in text
        and "0.4300" in text
        and "0.0450–0.0534" in text
    )


def test_every_table_sorts_and_copies() -> None:
    document = html.render(page())
    tables = document.count("<table>")
    assert (
        tables == 6
        and document.count('data-copy="tsv"') == document.count('data-copy="md"') == tables
    )
    heads = re.findall(
        r"<th(?: [^>]*)?>(.{7})", "".join(re.findall(r"<thead>.*?</thead>", document))
    )
    assert len(heads) == 16 and set(heads) == {"<button"}, "a heading that cannot be clicked"


def test_a_cell_carries_its_full_digits_and_the_ends_of_its_interval() -> None:
    made = table.table(
        [table.Column("Model", text=True), table.Column("NDCG@10", parts=("low", "high"))],
        [
            [
                table.Cell('a "b" <c>', 'a "b" <c>', css="m1"),
                table.Cell("0.1235", 0.123456789, ("0.1–0.2", ""), (0.1, 0.2)),
            ],
            [table.Cell("none", "none"), table.Cell("–", None)],
        ],
    )
    assert (
        '<td data-v="0.123456789" data-low="0.1" data-high="0.2">0.1235<small>0.1–0.2</small></td>'
        in made
    )
    assert (
        'data-v="a &quot;b&quot; &lt;c&gt;"' in made
        and '<td data-v="">–</td>' in made
        and 'data-parts="low high"' in made
    )


def test_metrics_nobody_told_us_of_are_shown_and_judged_by_none() -> None:
    values = (
        *ranking(popularity=0.1, als=0.2),
        value("als", "share_of_cold_items", 0.3),
        value("als", "auc", 0.9, k=0),
    )
    made = results.table(values, "ranking")
    assert (
        made.columns(10)[-1] == ("share_of_cold_items", 10)
        and ("share_of_cold_items", 10) not in made.best
    )
    # An evaluation of chosen metrics
    assert results.main_metric([value("als", "recall", 0.3)], "ranking") == (
        "recall",
        10,
    )
    assert (
        ("auc", 0) in made.columns(10)
        and ("auc", 0) not in made.columns(20)
        and made.ks == (10, 20)
    )
    assert results.title(("share_of_cold_items", 10)) == "Share of cold items@10"


def test_capped_recall_is_shown_only_where_it_says_something_else() -> None:
    capped = [
        value("als", "recall", 0.3),
        value("als", "recall_capped", 0.3),
        value("als", "recall", 0.3, k=1),
        value("als", "recall_capped", 0.5, k=1),
        value("als", "ndcg", 0.2),
    ]
    made = results.table(capped, "ranking")
    assert ("recall_capped", 10) not in made.columns(10) and ("recall_capped", 1) in made.columns(1)


def test_the_main_cut_off_is_ten_where_it_was_measured() -> None:
    values = [
        dataclasses.replace(one, k=k)
        for one in ranking(als=0.2)
        for k in (1, 5, 10)
        if one.slice == "all"
    ]
    assert results.table(values, "ranking").ks == (10, 1, 5) and results.table(
        values, "ranking"
    ).primary == ("ndcg", 10)
    assert results.main_metric([one for one in values if one.k != 10], "ranking") == ("ndcg", 1)
