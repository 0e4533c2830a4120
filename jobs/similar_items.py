"""spark-submit jobs/similar_items.py [CONFIG] [key=value ...] [--step NAME] [--dry-run] [--help]"""

import sys
from pathlib import Path

# Last, so that an installed package comes first
sys.path.append(str(Path(__file__).resolve().parents[1]))
from recsys_spark.cli import job

job("similar_items")
