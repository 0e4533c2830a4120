"""The structure planted in generated data, as Spark expressions.

Planted structure, which a good model can learn:
- users have a taste (three liked genres and one of their own) and a liking for old or new films;
  most of what they rate follows it;
- films differ in popularity (a power law inside each genre) and quality; popular films are somewhat
  better;
- over time a user's taste moves to a neighbouring one, and every month has its fashionable films;
- gender, age and occupation correlate with taste and with the liking for old films; a rating
  increases with taste, quality and mood.

The lines are those of MovieLens-1M.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from recsys_spark.core.seeds import derive
from recsys_spark.datasets.files.spec import seconds

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

GENRES = (
    "Drama",
    "Comedy",
    "Action",
    "Thriller",
    "Romance",
    "Horror",
    "Adventure",
    "Sci-Fi",
    "Children's",
    "Crime",
    "War",
    "Documentary",
    "Musical",
    "Mystery",
    "Animation",
    "Western",
    "Film-Noir",
    "Fantasy",
)
TASTES = (
    12  # groups of users; group t likes the genres t, t + 5, t + 11 (modulo the number of genres)
)
MIN_RATINGS = 20  # minimum per user, as in MovieLens
_FIRST, _LAST = seconds("2000-04-26"), seconds("2003-02-28")
_MONTH_S = 30 * 86_400
# place in a genre = size * x^skew for uniform x: at the size of 1M, over half of the users rate the
# most popular film
_SKEW = 1.6


def people(spark: SparkSession, users: int, items: int, ratings: int, seed: int) -> DataFrame:
    """One row per user: user (0..), taste, own genre, old or new, number of ratings, start and span
    of the activity (seconds).
    """
    from pyspark.sql import functions as F

    def unit(name: str) -> Column:
        return _unit(F.xxhash64(F.lit(derive(seed, "user", name)), F.col("user")), 0)

    # A bounded approximation
    normal = (unit("n1") + unit("n2") + unit("n3") + unit("n4") - 2) * math.sqrt(3)
    ages = spark.range(
        0, users, 1, numPartitions=max(2, math.ceil(ratings / 2_000_000))
    ).withColumnRenamed("id", "user")
    people = ages.select(
        "user",
        F.floor(unit("taste") * TASTES).alias("taste"),
        F.floor(unit("genre") * len(GENRES)).alias("own_genre"),
        (unit("era") < 0.5).cast("int").alias("likes_new"),
        (normal * 0.4).alias("mood"),
        F.floor(1000 * F.exp(1.05 * (unit("w1") + unit("w2") + unit("w3") - 1.5) * 2)).alias(
            "activity"
        ),
        F.floor(unit("start") * (_LAST - _FIRST) * 0.7).alias("start"),
        F.floor(3600 + (_LAST - _FIRST) * 0.29 * F.pow(unit("span"), F.lit(4.0))).alias("span"),
        *[unit(name).alias(name) for name in ("gender", "age", "occupation", "zip")],
    )
    # Integer weights have the same sum in any order.
    most = max(MIN_RATINGS, int(0.7 * items))
    extra = ratings - MIN_RATINGS * users
    total = people.agg(F.sum("activity")).collect()[0][0]
    share = F.floor(
        F.col("activity").cast("decimal(38,0)")
        * F.lit(extra).cast("decimal(20,0)")
        / F.lit(total).cast("decimal(20,0)")
    )
    shared = people.withColumn("more", F.least(F.lit(most - MIN_RATINGS), share.cast("long")))
    # Ratings lost to rounding and to the cap: one more for each user, in turn
    left = extra - shared.agg(F.sum("more")).collect()[0][0]
    rounds, rest = divmod(left, users)
    count = MIN_RATINGS + F.col("more") + rounds + (F.col("user") < rest).cast("long")
    return shared.withColumn("count", F.least(F.lit(most), count)).drop("more")


def rating_lines(people: DataFrame, items: int, seed: int) -> DataFrame:
    """One line per rating, by user and time: `UserID::MovieID::Rating::Timestamp`."""
    from pyspark.sql import functions as F

    step = coprime(items)
    num_ratings = F.col("count")
    hashes = F.transform(
        F.sequence(F.lit(0).cast("long"), 2 * num_ratings + 19),
        lambda draw: F.xxhash64(F.lit(derive(seed, "draw")), F.col("user"), draw),
    )
    draws = F.transform(
        hashes, lambda hashed, draw: _drawn_item(hashed, draw / (2 * num_ratings + 20), items)
    )
    distinct = F.array_distinct(draws)
    # A user with many ratings may not draw enough different films: the remaining ones come from a
    # walk over all films, as the oldest ratings.
    walk = F.transform(
        F.sequence(F.lit(0).cast("long"), 2 * num_ratings),
        lambda place: (F.col("user") * 7919 + place * step) % items,
    )
    missing = F.greatest(F.lit(0), num_ratings - F.size("distinct"))
    picked = people.withColumn("distinct", distinct).withColumn(
        "picked",
        F.when(
            missing > 0,
            F.concat(
                F.slice(F.array_except(walk, "distinct"), F.lit(1), missing.cast("int")), "distinct"
            ),
        ).otherwise(F.slice("distinct", F.lit(1), num_ratings.cast("int"))),
    )
    rows = picked.select(
        "user",
        "taste",
        "own_genre",
        "likes_new",
        "mood",
        "count",
        "start",
        "span",
        F.posexplode("picked").alias("place", "item"),
    )
    noise = F.xxhash64(F.lit(derive(seed, "rating")), F.col("user"), F.col("item"))
    genre, era = F.col("item") % len(GENRES), F.floor(F.col("item") / len(GENRES)) % 2
    liked = _liked(F.col("taste"), genre) | (genre == F.col("own_genre"))
    quality = 0.6 * (0.5 - F.col("item") / items) + 0.9 * (
        _unit(F.xxhash64(F.lit(derive(seed, "quality")), F.col("item")), 0) - 0.5
    )
    bell = (_unit(noise, 0) + _unit(noise, 16) + _unit(noise, 32) - 1.5) * 2  # standard deviation 1
    value = (
        3.45
        + F.col("mood")
        + quality
        + F.when(liked, 0.45).otherwise(-0.45)
        + F.when(era == F.col("likes_new"), 0.3).otherwise(-0.3)
        + 0.75 * bell
    )
    stars = F.least(F.lit(5), F.greatest(F.lit(1), F.floor(value + 0.5)))
    # Times increase with the place: each rating has its own interval in the user's span.
    ts = (
        _FIRST
        + F.col("start")
        + F.floor(F.col("span") * (F.col("place") + _unit(noise, 40)) / F.col("count"))
    )
    return rows.select(
        F.concat_ws("::", F.col("user") + 1, 1 + (F.col("item") * step) % items, stars, ts).alias(
            "value"
        )
    )


def _drawn_item(hashed: Column, progress: Column, items: int) -> Column:
    """The film (0.., most popular first) of one draw. progress: position of the draw in the user's
    activity, 0..1.
    """
    from pyspark.sql import functions as F

    num_genres = len(GENRES)
    choice, where, side = _unit(hashed, 0), _unit(hashed, 16), _unit(hashed, 32)
    taste = F.when(_unit(hashed, 44) < 0.6 * progress, (F.col("taste") + 1) % TASTES).otherwise(
        F.col("taste")
    )
    liked = F.when(side < 0.5, taste).when(side < 0.8, taste + 5).otherwise(taste + 11) % num_genres
    genre = (
        F.when(choice < 0.55, liked)
        .when(choice < 0.7, F.col("own_genre"))
        .otherwise(F.floor(num_genres * F.pow(side, F.lit(1.4))))
        .cast("long")
    )
    # Films of this genre have the numbers genre, genre + 18, ...
    size = F.floor((F.lit(items - 1) - genre) / num_genres) + 1
    place = F.floor(size * F.pow(where, F.lit(_SKEW)))
    fitting = F.when(_unit(hashed, 40) < 0.75, place - place % 2 + F.col("likes_new")).otherwise(
        place
    )
    of_taste = F.least(fitting, size - 1) * num_genres + genre
    month = F.floor((F.col("start") + F.col("span") * progress) / _MONTH_S)
    fashion = F.pmod(F.xxhash64(month, F.floor(where * 20)), F.lit(items))
    return F.when(choice > 0.92, fashion).otherwise(of_taste).cast("long")


def user_lines(people: DataFrame) -> DataFrame:
    """One line per user, by id: `UserID::Gender::Age::Occupation::Zip-code`."""
    from pyspark.sql import functions as F

    woman = F.col("gender") < F.when(F.col("taste") % 2 == 0, 0.75).otherwise(0.15)
    young = F.when(F.col("age") < 0.85, F.col("likes_new") == 1).otherwise(F.col("likes_new") == 0)
    bucket = F.floor(F.col("age") / 0.85 * 3.999) % 4
    age = F.when(
        young, F.element_at(F.array(*map(F.lit, (1, 18, 25, 25))), (bucket + 1).cast("int"))
    ).otherwise(F.element_at(F.array(*map(F.lit, (35, 45, 50, 56))), (bucket + 1).cast("int")))
    job = F.when(F.col("occupation") < 0.6, F.col("taste")).otherwise(
        F.floor(F.col("occupation") * 20.999)
    )
    zip_code = F.lpad(F.floor(F.col("zip") * 99_999).cast("string"), 5, "0")
    return people.select(
        F.concat_ws(
            "::", F.col("user") + 1, F.when(woman, "F").otherwise("M"), age, job, zip_code
        ).alias("value")
    )


def _unit(hashed: Column, shift: int) -> Column:
    """16 bits of a hash as a number in [0, 1)."""
    from pyspark.sql import functions as F

    return F.shiftrightunsigned(hashed, shift).bitwiseAND(F.lit(0xFFFF)) / 65536.0


def _liked(taste: Column, genre: Column) -> Column:
    number = len(GENRES)
    return (
        (genre == taste % number)
        | (genre == (taste + 5) % number)
        | (genre == (taste + 11) % number)
    )


def coprime(items: int) -> int:
    """A step coprime to `items`, which visits every item once, so that ids do not reveal
    popularity.
    """
    step = int(items * 0.618)
    while math.gcd(step, items) != 1:
        step += 1
    return step
