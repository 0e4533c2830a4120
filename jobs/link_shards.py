"""spark-submit jobs/link_shards.py [CONFIG] [key=value ...] [--step NAME] [--dry-run] [--help]"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last, so that an installed package comes first
from recsys_spark.cli import job

job("link_shards")
