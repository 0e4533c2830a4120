"""MovieLens in every format that GroupLens publishes: https://grouplens.org/datasets/movielens/

Row counts are those of each set's README. The digests are of the zips on GroupLens' server: those
of 100K, 1M, 20M, 25M and latest-small agree with tensorflow-datasets' list, those of 10M and 32M
with several independent records; `latest` changes over time and has none.
"""

from __future__ import annotations

from recsys_spark.datasets.files.spec import Dataset, Download, File, seconds

_BASE = "https://files.grouplens.org/datasets/movielens/"
_RATING = ("user_id", "item_id", "value", "ts")
_YEAR = r"regexp_extract(title, '\\((\\d{4})\\)\\s*$', 1)"
_GENRES = "nullif(genres, '(no genres listed)')"
_GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_AGES_1M = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 or over",
}
_OCCUPATIONS_1M = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)


def _named(column: str, names: dict[str, str]) -> str:
    """SQL expression for the name of a code, or the code itself where it has no name."""
    cases = " ".join(f"WHEN '{code}' THEN '{name}'" for code, name in names.items())
    return f"CASE {column} {cases} ELSE {column} END"


def _zip(name: str, folder: str, size_bytes: int | None = None, sha256: str = "") -> Download:
    return Download(f"{_BASE}{name}.zip", folder, size_bytes, sha256)


def _csv(
    name: str,
    first: str,
    last: str,
    *,
    ratings: int | None = None,
    movies: int | None = None,
    size_bytes: int | None = None,
    sha256: str = "",
) -> Dataset:
    """The format of 20M, 25M, 32M and latest. Tags and the genome are not read."""
    files = (
        File("ratings.csv", "interactions", _RATING, ",", header=True, rows=ratings),
        File(
            "movies.csv",
            "items",
            ("item_id", "title", "genres"),
            ",",
            header=True,
            quoted=True,
            fields={"genres": _GENRES, "year": _YEAR},
            rows=movies,
        ),
        File(
            "links.csv",
            "items",
            ("item_id", "imdb_id", "tmdb_id"),
            ",",
            header=True,
            fields={"imdb_id": "imdb_id", "tmdb_id": "tmdb_id"},
            adds_fields=True,
            required=False,
        ),
    )
    return Dataset(
        name,
        files,
        value_min=0.5,
        value_max=5.0,
        value_step=0.5,
        ts_min=seconds(first),
        ts_max=seconds(last),
        download=_zip(name, name, size_bytes, sha256),
    )


_ALL = (
    Dataset(
        "ml-100k",
        (
            File("u.data", "interactions", _RATING, "\t", rows=100_000),
            File(
                "u.user",
                "users",
                ("user_id", "age", "gender", "occupation", "zip"),
                "|",
                rows=943,
                fields={name: name for name in ("age", "gender", "occupation", "zip")},
            ),
            File(
                "u.item",
                "items",
                ("item_id", "title", "released", "video_released", "url", *_GENRES_100K),
                "|",
                encoding="ISO-8859-1",
                rows=1682,
                fields={
                    "genres": "concat_ws('|', "
                    + ", ".join(f"""CASE WHEN `{g}` = '1' THEN "{g}" END""" for g in _GENRES_100K)
                    + ")",
                    "year": _YEAR,
                    "released": "released",
                    "url": "url",
                },
            ),
        ),
        value_min=1,
        value_max=5,
        value_step=1,
        ts_min=seconds("1997-09-19"),
        ts_max=seconds("1998-04-24"),
        download=_zip(
            "ml-100k",
            "ml-100k",
            4_924_029,
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        ),
    ),
    Dataset(
        "ml-1m",
        (
            File("ratings.dat", "interactions", _RATING, rows=1_000_209),
            # Additional files of ratings, or those of a large generated set
            File("ratings-*.dat", "interactions", _RATING, required=False),
            File(
                "users.dat",
                "users",
                ("user_id", "gender", "age", "occupation", "zip"),
                rows=6_040,
                fields={
                    "gender": "gender",
                    "age": _named("age", _AGES_1M),
                    "zip": "zip",
                    "occupation": _named(
                        "occupation", {str(code): name for code, name in enumerate(_OCCUPATIONS_1M)}
                    ),
                },
            ),
            File(
                "movies.dat",
                "items",
                ("item_id", "title", "genres"),
                encoding="ISO-8859-1",
                rows=3_883,
                fields={"genres": "genres", "year": _YEAR},
            ),
        ),
        value_min=1,
        value_max=5,
        value_step=1,
        ts_min=seconds("2000-04-01"),
        ts_max=seconds("2003-04-01"),
        like_movielens_1m=True,
        download=_zip(
            "ml-1m",
            "ml-1m",
            5_917_549,
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ),
    ),
    Dataset(
        "ml-10m",
        (
            File("ratings.dat", "interactions", _RATING, rows=10_000_054),
            File(
                "movies.dat",
                "items",
                ("item_id", "title", "genres"),
                rows=10_681,
                fields={"genres": _GENRES, "year": _YEAR},
            ),
        ),
        value_min=0.5,
        value_max=5,
        value_step=0.5,
        ts_min=seconds("1995-01-01"),
        ts_max=seconds("2009-02-01"),
        download=_zip(
            "ml-10m",
            "ml-10M100K",
            65_566_137,
            "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
        ),
    ),
    _csv(
        "ml-20m",
        "1995-01-01",
        "2015-04-02",
        ratings=20_000_263,
        movies=27_278,
        size_bytes=198_702_078,
        sha256="96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    _csv(
        "ml-25m",
        "1995-01-01",
        "2019-11-23",
        ratings=25_000_095,
        movies=62_423,
        size_bytes=261_978_986,
        sha256="8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    _csv(
        "ml-32m",
        "1995-01-01",
        "2023-10-14",
        ratings=32_000_204,
        movies=87_585,
        size_bytes=238_950_008,
        sha256="e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
    ),
    _csv("ml-latest", "1995-01-01", "2100-01-01"),
    _csv(
        "ml-latest-small",
        "1995-01-01",
        "2100-01-01",
        size_bytes=978_202,
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
)

DATASETS = {dataset.name: dataset for dataset in _ALL}
