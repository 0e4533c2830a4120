"""published    The part that the publisher's files give each event (`part:` in the ingest step), in
                `context["part"]`. Nothing is filtered. A challenge may keep part test to
                itself: what it gives of the queries to answer is then part test_fold_in.
Where the publisher has no validation part, `valid` takes one out of train, so that nothing is ever
chosen on test:
one_random    of each user with two or more training events, the one with the lowest hash(seed,
              user_id, item_id, ts)
last_one      of each such user, the last (time ties as everywhere)
{share: x}    every training event with the probability x, by its hash
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError
from recsys_spark.etl import order
from recsys_spark.etl.queries import newest_first
from recsys_spark.etl.split.rule import Rule, count_of, whole, with_part

GIVEN = "_given"


class Share(Settings):
    share: float = Field(gt=0, lt=1)


class Published(Rule):
    needs: ClassVar[tuple[str, ...]] = ("context",)
    filters: ClassVar[bool] = False
    valid: Literal["one_random", "last_one"] | Share | None = None

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError for events without a part, no train or test part, or `valid` where the
        publisher has a validation part.
        """
        given = events.withColumn(GIVEN, F.col("context").getItem(c.PART))
        counts = {row[GIVEN]: row["count"] for row in given.groupBy(GIVEN).count().collect()}
        self._check(counts)
        if self.valid is None:
            return with_part(given, F.col(GIVEN))
        trained = F.col(GIVEN) == c.TRAIN
        return with_part(
            given, F.when(trained & self._taken(seed), c.VALID).otherwise(F.col(GIVEN))
        )

    def _check(self, counts: dict[str | None, int]) -> None:
        wrong = {part: count for part, count in counts.items() if part not in c.PARTS}
        if wrong:
            part, count = next(iter(wrong.items()))
            raise DataError(
                "events of rule published",
                found=f"{count} " + (f"with part {part!r}" if part else "without a part"),
                expected=f"one of {', '.join(c.PARTS)} in every event",
                remedy="give each kind of files of the ingest "
                "step its `part`, in a lake of its own",
            )
        needed = (c.TRAIN, *(() if c.TEST_FOLD_IN in counts else (c.TEST,)))
        lacking = [part for part in needed if part not in counts]
        if lacking:
            raise DataError(
                "events of rule published",
                found=f"the parts {', '.join(sorted(map(str, counts)))}",
                expected=f"{lacking[0]} among them",
                remedy=f"name the files of part {lacking[0]} in the ingest step",
            )
        if self.valid is not None and c.VALID in counts:
            raise DataError(
                "rule published, valid",
                found=(
                    f"{self.valid!r}, where the files hold {counts[c.VALID]} events of part valid"
                ),
                expected="the publisher's own validation part alone",
                remedy="leave out valid",
            )

    def _taken(self, seed: int) -> Column:
        """Whether a training event goes to valid."""
        drawn = order.hashed(seed, "valid", c.USER_ID, c.ITEM_ID, c.TS)
        if isinstance(self.valid, Share):
            return drawn < F.lit(whole(order.HASH_END, self.valid.share))
        groups = (c.QUERY_ID, GIVEN)
        window = (
            newest_first(*groups)
            if self.valid == "last_one"
            else Window.partitionBy(*groups).orderBy(drawn, c.ITEM_ID, c.TS)
        )
        return (F.row_number().over(window) == 1) & (count_of(window) > 1)
