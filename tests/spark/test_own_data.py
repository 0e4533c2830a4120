"""docs/own-data.md, command by command (typed.py), on interactions that are not MovieLens."""

from __future__ import annotations

import re

from tests.spark.typed import ROOT, Shell, commands


def test_the_example_of_own_data(spark, tmp_path) -> None:
    shell = Shell(spark, tmp_path)
    doc = ROOT / "docs" / "own-data.md"
    text = re.findall(r"```yaml\n(.*?)```", doc.read_text(encoding="utf-8"), flags=re.S)[0]
    shop = shell.data / "shop"
    shop.mkdir()
    rows = [line.split("::") for line in (shell.data / "ml-1m" / "ratings.dat").read_text().splitlines()]
    lines = ["user,item,time,stars,store", *(f"{user},{item},{time},{stars},x" for user, item, stars, time in rows)]
    (shop / "events-1.csv").write_text("\n".join(lines) + "\n")
    (shell.clone / "my.yaml").write_text(text.replace("/data/shop", str(shop)))
    for command in commands(doc):
        said = shell.run(command)
    assert "popularity" in said and "als" in said and "report.html" in said
