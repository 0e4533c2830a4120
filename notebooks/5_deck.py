# Databricks notebook source
# MAGIC %md
# MAGIC # The experiments of a survey deck, replayed
# MAGIC "Deep Learning for Recommendation Systems" (J. Le, 2020) ran seven matrix factorizations on
# MAGIC MovieLens-1M. This notebook runs
# MAGIC them again at its own settings, flaws included, and shows what came out. `recsys-spark
# MAGIC parity conf/deck.yaml` writes the same as
# MAGIC a page, deck and ours side by side.
# MAGIC
# MAGIC What the deck reports are mean squared errors after the last of 50 epochs, on a random
# MAGIC quarter of all ratings: so the models
# MAGIC have seen the future of what they predict, and nothing chose the epoch. The roots of its
# MAGIC figures: vanilla .904, biases .889,
# MAGIC side features .886, temporal .891, factorization machine .907, mixture .888, variational
# MAGIC .916.

# COMMAND ----------

dbutils.widgets.text("config", "../conf/pipelines/deck.yaml", "Pipeline file")
dbutils.widgets.text("lake", "main.recsys_deck", "catalog.schema, path or URL of the tables")
dbutils.widgets.text("runs", "/Volumes/main/recsys/runs", "Folder of the run folders")
dbutils.widgets.text("settings", "", "Other settings, key=value, with spaces between")

# COMMAND ----------

from pathlib import Path

from recsys_spark.pipeline import runner, steps

plan, known = steps.load(
    dbutils.widgets.get("config"),
    [
        f"env.lake={dbutils.widgets.get('lake')}",
        f"env.runs={dbutils.widgets.get('runs')}",
        *dbutils.widgets.get("settings").split(),
    ],
)
lake = runner.open_lake(plan)
done = runner.run(plan, list(known.values()), lake=lake, listener=print)

# COMMAND ----------

# MAGIC %md
# MAGIC ## How they got there
# MAGIC The page below has every epoch of every model. The deck's "training loss" is the error of
# MAGIC one last mini-batch of 1,024 ratings:
# MAGIC its column ranks little but noise.

# COMMAND ----------

displayHTML((Path(done["report"].run_dir) / "report.html").read_text())

# COMMAND ----------

# MAGIC %md
# MAGIC ## Errors on the test part
# MAGIC Compare with `global_bias`, which has no factors at all: ten factors at this step size and
# MAGIC without a real regulariser add little
# MAGIC to it, or lose to it. The order of the models says how each overfits, not what its idea is
# MAGIC worth; the sound comparison is
# MAGIC `conf/parity.yaml`.

# COMMAND ----------

display(
    lake.read("metrics")
    .where("slice = 'all' and metric = 'rmse'")
    .select("model", "value", "low", "high")
    .orderBy("value")
)
