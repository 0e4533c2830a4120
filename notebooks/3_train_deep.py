# Databricks notebook source
# MAGIC %md
# MAGIC # Deep models
# MAGIC Exports shards and trains; where the runtime brings no Horovod, pass workers.engine=torch in
# MAGIC the pipeline file.

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
    known, [name for name, step in known.items() if step.job.stage in ("train_deep",)]
)
lake = runner.open_lake(plan)
done = runner.run(plan, wanted, lake=lake, listener=print)

# COMMAND ----------

display(lake.read("runs").where("stage = 'train_deep'").orderBy("started_at", ascending=False))
