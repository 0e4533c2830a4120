"""Every form of MovieLens: each in a few lines of its own format, and the real 100K where it is at
hand.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pyspark.sql import Row

from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.files import spec
from recsys_spark.lake.tables import Lake
from tests.rawsets import job, judge, plain, run, write

FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation, Children's, Comedy


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row.item_id: row for row in rows}


def test_known_sets_are_found_by_name() -> None:
    assert {
        "ml-100k",
        "ml-1m",
        "ml-10m",
        "ml-20m",
        "ml-25m",
        "ml-32m",
        "ml-latest",
        "ml-latest-small",
    } <= set(spec.known())
    rows = {name: known.of("interactions")[0].rows for name, known in spec.known().items()}
    assert (rows["ml-100k"], rows["ml-1m"], rows["ml-10m"]) == (100_000, 1_000_209, 10_000_054)
    assert (rows["ml-20m"], rows["ml-25m"], rows["ml-32m"], rows["ml-latest"]) == (
        20_000_263,
        25_000_095,
        32_000_204,
        None,
    )
    with pytest.raises(ConfigError, match="did you mean 'ml-100k'"):
        spec.find("ml100k")


def test_100k(lake: Lake, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "raw",
        u_data="1\t1\t3\t881250949\n2\t2\t5\t881250950\n",
        u_user="1|24|M|technician|85711\n2|53|F|other|94043\n",
        u_item=f"1|Fée, La (1995)|01-Jan-1995||http://x/y?z|{FLAGS}\n"
        f"2|unknown||||1{FLAGS[1:].replace('1', '0')}\n",
    )
    good, bad = judge(lake, job(folder, dataset="ml-100k"))
    items = by_id(good["items"])
    assert bad == []
    assert plain(good["interactions"]) == [("1", "1", 881250949, 3.0), ("2", "2", 881250950, 5.0)]
    assert items["1"].title == "Fée, La (1995)"
    assert items["1"].fields == {
        "genres": "Animation|Children's|Comedy",
        "year": "1995",
        "released": "01-Jan-1995",
        "url": "http://x/y?z",
    }
    assert items["2"].fields == {"genres": "unknown"}
    assert good["users"][0].fields == {
        "age": "24",
        "gender": "M",
        "occupation": "technician",
        "zip": "85711",
    }


def test_10m_has_half_stars_and_no_users(lake: Lake, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "raw",
        ratings_dat="1::122::4.5::838985046\n9::122::4.25::838985046\n",
        movies_dat="122::Amélie (2001)::Comedy\n65133::X (2008)::(no genres listed)\n".encode(),
    )
    good, bad = judge(lake, job(folder, dataset="ml-10m"))
    items = by_id(good["items"])
    assert plain(good["interactions"]) == [("1", "122", 838985046, 4.5)]
    assert bad == [("ratings.dat", 2, "value_out_of_range", "9::122::4.25::838985046")]
    assert items["122"].title == "Amélie (2001)"
    assert items["65133"].fields == {"year": "2008"}
    assert "users" not in good


def test_csv_with_quoted_titles_and_links(lake: Lake, tmp_path: Path) -> None:
    movies = (
        "\ufeffmovieId,title,genres\n"
        '11,"American President, The (1995)",Comedy|Drama|Romance\n'
        '12,"One ""Two"", Three (1999)",(no genres listed)\n'
        "13,Plain (2000),Drama,too many\n"
    )
    ratings = (
        "userId,movieId,rating,timestamp\n"
        "1,11,4.0,1147880044\n1,12,0.5,1147880045\n1,13,3,1147880046\n"
    )
    folder = write(
        tmp_path / "raw",
        ratings_csv=ratings,
        movies_csv=movies.encode(),
        links_csv="movieId,imdbId,tmdbId\n11,0112346,9087\n12,0112347,\n",
    )
    # Of two lines of an item the first counts; Spark reads the larger file first
    again = "".join(f"11,{7**number},{number}\n" for number in range(90))
    (folder / "links.csv.gz").write_bytes(gzip.compress(f"a,b,c\n{again}".encode()))
    good, bad = judge(lake, job(folder, dataset="ml-25m"))
    assert plain(good["interactions"]) == [
        ("1", "11", 1147880044, 4.0),
        ("1", "12", 1147880045, 0.5),
    ]
    found = by_id(good["items"])
    assert found["11"].title == "American President, The (1995)"
    assert found["11"].fields == {
        "genres": "Comedy|Drama|Romance",
        "year": "1995",
        "imdb_id": "0112346",
        "tmdb_id": "9087",
    }
    assert found["12"].title == 'One "Two", Three (1999)'
    assert found["12"].fields == {"year": "1999", "imdb_id": "0112347"}
    assert bad == [
        ("movies.csv", 4, "wrong_number_of_fields", "13,Plain (2000),Drama,too many"),
        ("ratings.csv", 4, "unknown_item", "1,13,3,1147880046"),
    ]


@pytest.mark.soak
def test_the_real_100k(lake: Lake, data_dir: Path) -> None:
    if not (data_dir / "ml-100k" / "u.data").exists():
        pytest.skip("RECSYS_DATA does not hold ml-100k")
    outcome = run(
        lake, job(data_dir / "ml-100k", dataset="ml-100k", expected="check", max_quarantine_share=0)
    )
    assert outcome.summary["rows"] == {"users": 943, "items": 1682, "interactions": 100_000}
    total = (
        lake.read("interactions")
        .selectExpr("count(*)", "sum(value)", "min(ts)", "max(ts)", "count(distinct user_id)")
        .collect()[0]
    )
    assert tuple(total) == (100_000, 352_986.0, 874_724_710, 893_286_638, 943)
    assert (
        lake.read("items").where("item_id = '543'").collect()[0].title == "Misérables, Les (1995)"
    )
