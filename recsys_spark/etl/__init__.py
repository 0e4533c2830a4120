"""DataFrame in, DataFrame out: quarantine, clean, index, split, layouts, shards."""
