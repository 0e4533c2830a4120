# Databricks notebook source
# MAGIC %md
# MAGIC # Spark ALS
# MAGIC Searches its hyper-parameters on the validation part, keeps the best, saves factors.

# COMMAND ----------

dbutils.widgets.text("config", "../conf/pipelines/ml-1m.yaml", "Pipeline file")
dbutils.widgets.text("lake", "main.recsys", "catalog.schema, path or URL of the tables")
dbutils.widgets.text("runs", "/Volumes/main/recsys/runs", "Folder of the run folders")

# COMMAND ----------

from recsys_spark.pipeline import runner, steps

plan, known = steps.load(
    dbutils.widgets.get("config"),
    [f"env.lake={dbutils.widgets.get('lake')}", f"env.runs={dbutils.widgets.get('runs')}"],
)
wanted = steps.closure(
    known, [name for name, step in known.items() if step.job.stage in ("train_als",)]
)
lake = runner.open_lake(plan)
done = runner.run(plan, wanted, lake=lake, listener=print)

# COMMAND ----------

display(lake.read("runs").where("stage = 'train_als'").orderBy("started_at", ascending=False))
