# Databricks notebook source
# MAGIC %md
# MAGIC # Recommendations from a table of your own
# MAGIC A first look at a table or view of a catalog, a pipeline drafted for it, and what it gives.
# MAGIC The same from a shell, and every setting: docs/own-data.md.

# COMMAND ----------

dbutils.widgets.text("table", "main.sales.events", "Events: catalog.schema.table")
dbutils.widgets.text("user", "", "Column of users (empty: guessed)")
dbutils.widgets.text("item", "", "Column of items (empty: guessed)")
dbutils.widgets.text("draft", "/Volumes/main/recsys/own.yaml", "The pipeline file")
dbutils.widgets.text("lake", "main.recsys_own", "catalog.schema, path or URL of our tables")
dbutils.widgets.text("runs", "/Volumes/main/recsys/own", "Folder of the run folders")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What is in it
# MAGIC The first rows alone are read. Mind what looks wrong, and what each column is taken for.

# COMMAND ----------

import time
from pathlib import Path

from rich.console import Console

from recsys_spark.commands import init

given = {"user_id": dbutils.widgets.get("user"), "item_id": dbutils.widgets.get("item")}
seen = init.look(
    spark,
    dbutils.widgets.get("table"),
    {role: column for role, column in given.items() if column},
    time.time(),
)
init.show(Console(width=120), seen)

# COMMAND ----------

# MAGIC %md
# MAGIC ## A pipeline for it
# MAGIC Written once. Each guess is a comment beside its line: correct the file, then go on.

# COMMAND ----------

draft = Path(dbutils.widgets.get("draft"))
if not draft.exists():
    init.write(seen, draft)
print(draft.read_text())

# COMMAND ----------

# MAGIC %md
# MAGIC ## Run it
# MAGIC Steps that are done are kept: run this again after a change, or when the table got rows.

# COMMAND ----------

from recsys_spark.pipeline import runner, steps

plan, known = steps.load(
    draft,
    [f"env.lake={dbutils.widgets.get('lake')}", f"env.runs={dbutils.widgets.get('runs')}"],
)
lake = runner.open_lake(plan)
done = runner.run(plan, list(known.values()), lake=lake, listener=print)

# COMMAND ----------

displayHTML((Path(done["report"].run_dir) / "report.html").read_text())

# COMMAND ----------

display(
    lake.read("metrics")
    .where("slice = 'all' and metric = 'ndcg' and k = 10")
    .select("model", "value", "low", "high")
    .orderBy("value", ascending=False)
)
