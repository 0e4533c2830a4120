"""One file per stage; the only place where Spark and torch meet."""
